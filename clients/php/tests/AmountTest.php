<?php

use Integration\PaymentService\Amount;
use Integration\PaymentService\BadRequest;
use Integration\PaymentService\Http;
use PHPUnit\Framework\TestCase;

final class AmountTest extends TestCase
{
    /** @dataProvider amounts */
    public function testTengeBecomeWholeTiyn($tenge, int $tiyn, string $text): void
    {
        $this->assertSame($tiyn, Amount::tiyn($tenge));
        $this->assertSame($text, Amount::text($tiyn));
    }

    public function amounts(): array
    {
        return [
            [100, 10000, '100.00'],
            ['100', 10000, '100.00'],
            ['100.5', 10050, '100.50'],
            [17500.5, 1750050, '17500.50'],
            [0.1 + 0.2, 30, '0.30'],
            [1.1, 110, '1.10'],
            [0.01, 1, '0.01'],
            ['00012.340', 1234, '12.34'],
            [99999999.99, 9999999999, '99999999.99'],
            ['99999999.99', 9999999999, '99999999.99'],
        ];
    }

    /** @dataProvider noAmounts */
    public function testWhatIsNoAmountIsRefused($tenge): void
    {
        $this->expectException(BadRequest::class);
        Amount::tiyn($tenge);
    }

    public function noAmounts(): array
    {
        return [[0], ['0.00'], [-1], ['-5'], [0.301], ['1.234'], ['1,5'], ['1e3'], ['abc'], [''], [null], [true], [[1]], [NAN], [INF], [100000000]];
    }

    public function testAmountIsWrittenWithItsShortestDigitsWhateverPhpIniSays(): void
    {
        $before = ini_set('serialize_precision', '17');
        $this->assertSame('{"Amount":0.1}', Http::encode(['Amount' => Amount::number(10)]));
        $this->assertSame('{"Amount":17500.5}', Http::encode(['Amount' => Amount::number(1750050)]));
        $this->assertSame('{"Amount":100}', Http::encode(['Amount' => Amount::number(10000)]));
        $this->assertSame('17', ini_set('serialize_precision', $before));
    }
}
