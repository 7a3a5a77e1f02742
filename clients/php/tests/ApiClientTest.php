<?php

use Integration\Kaspi\ApiClient;
use Integration\PaymentService\BadRequest;
use Integration\PaymentService\Client;
use Integration\PaymentService\EqualCalls;
use Integration\PaymentService\Inactive;
use Integration\PaymentService\OutcomeUnknown;
use Integration\PaymentService\Unavailable;

final class ApiClientTest extends SiteTest
{
    const PAY = ['Amount' => 1250.5, 'PhoneNumber' => '77015211545', 'Comment' => 'Букет'];

    /** @var Wire */
    private $kaspi;

    protected function setUp(): void
    {
        parent::setUp();
        $this->kaspi = new Wire();
        $this->wire->willSay($this->config());
    }

    /** @dataProvider operations */
    public function testEachOperationIsOfItsShopAndReported(string $method, array $params, string $path, string $operation, ?int $tiyn): void
    {
        $this->kaspi->willSay(['StatusCode' => 0, 'Data' => ['QrPaymentId' => 12800627774, 'PaymentId' => 12800627774]]);
        $this->wire->willSay(['id' => 1]);
        $stranger = ['OrganizationBin' => '210440028324', 'DeviceToken' => 'another-token'];
        $stranger += ['organizationBin' => '210440028324', 'DEVICETOKEN' => 'another-token'];
        $stranger += isset($params['Amount']) ? ['amount' => 1] : [];
        $stranger += isset($params['QrPaymentId']) ? ['qrPaymentID' => 1] : [];
        $answer = $this->api()->$method($params + $stranger, self::SHOP);
        $request = $this->kaspi->requests[0];
        parse_str((string) parse_url($request['url'], PHP_URL_QUERY), $query);
        $sent = $request['body'] ?? $query;
        $this->assertCount(count($sent), array_change_key_case($sent), 'a name is sent twice');
        $this->assertSame([self::BIN, self::TOKEN], [$sent['OrganizationBin'], $sent['DeviceToken']]);
        $this->assertSame($path, parse_url($request['url'], PHP_URL_PATH));
        $this->assertSame('200', $answer['http_code']);
        $this->assertSame(0, $answer['data']['StatusCode']);
        $report = $this->wire->requests[1]['body'];
        $this->assertSame([$operation, self::SHOP, self::BIN], [$report['operation_type'], $report['shop_id'], $report['organization_bin']]);
        $this->assertSame($tiyn, $report['amount'] ?? null);
        $this->assertSame($operation === 'client-info' ? null : '12800627774', $report['external_id'] ?? null);
    }

    public function operations(): array
    {
        $refund = ['QrPaymentId' => 12800627774, 'Amount' => '50.25'];

        return [
            ['createRemotePay', self::PAY, '/r3/v01/remote/create/', 'create', 125050],
            ['getCreteQr', ['Amount' => 5], '/r3/v01/qr/create', 'create-qr', 500],
            ['createLink', ['Amount' => 5], '/r3/v01/qr/create-link', 'create-link', 500],
            ['paymentReturn', $refund, '/r3/v01/payment/return', 'refund', 5025],
            ['get', ['QrPaymentId' => 12800627774], '/r3/v01/payment/details', 'details', null],
            ['remoteClientInfo', ['phoneNumber' => '77015211545'], '/r3/v01/remote/client-info', 'client-info', null],
        ];
    }

    public function testStatusNeedsNoShopAndIsReportedOnlyForOne(): void
    {
        $said = ['StatusCode' => 0, 'Data' => ['Status' => 'Processed']];
        $this->kaspi->willSay($said)->willSay($said);
        $this->wire = new Wire();
        $this->assertSame('Processed', $this->api()->status(12800627774)['data']['Data']['Status']);
        $this->assertSame([], $this->wire->requests);
        $this->wire->willSay(['id' => 1]);
        $this->api()->status('12800627774', self::SHOP);
        $this->assertSame(['12800627774', 'Processed'], [$this->wire->requests[0]['body']['external_id'], $this->wire->requests[0]['body']['status']]);
    }

    /** @dataProvider unknowns */
    public function testMoneyCallWhoseOutcomeNobodyKnowsThrowsAndIsReportedSo(callable $say): void
    {
        $say($this->kaspi);
        $this->wire->willSay(['id' => 1]);
        try {
            $this->api()->createRemotePay(self::PAY, self::SHOP);
            $this->fail('it was taken for an answer');
        } catch (OutcomeUnknown $unknown) {
            $this->assertStringStartsWith('Outcome unknown', $this->wire->requests[1]['body']['error_message']);
        }
        $this->assertCount(1, $this->kaspi->requests);
    }

    public function unknowns(): array
    {
        return [
            'lost' => [static function (Wire $kaspi) { $kaspi->willFail(true); }],
            '500' => [static function (Wire $kaspi) { $kaspi->willSay('oops', 500); }],
            'html' => [static function (Wire $kaspi) { $kaspi->willSay('<html>'); }],
            'no id' => [static function (Wire $kaspi) { $kaspi->willSay(['StatusCode' => 0, 'Data' => []]); }],
            'id 0' => [static function (Wire $kaspi) { $kaspi->willSay(['StatusCode' => 0, 'Data' => ['QrPaymentId' => 0]]); }],
            '-999' => [static function (Wire $kaspi) { $kaspi->willSay(['StatusCode' => -999, 'Message' => 'technical']); }],
            'a new code' => [static function (Wire $kaspi) { $kaspi->willSay(['StatusCode' => -77000123]); }],
            'a code as text' => [static function (Wire $kaspi) { $kaspi->willSay(['StatusCode' => '0', 'Data' => ['QrPaymentId' => 5]]); }],
        ];
    }

    /** @dataProvider refusals */
    public function testRefusalThatMovedNoMoneyIsReturned(callable $say): void
    {
        $say($this->kaspi);
        $this->wire->willSay(['id' => 1]);
        $this->assertSame('rejected', $this->api()->createRemotePay(self::PAY, self::SHOP)['outcome']);
    }

    public function refusals(): array
    {
        $cases = ['HTTP 403' => [static function (Wire $kaspi) { $kaspi->willSay('no', 403); }]];
        foreach (ApiClient::NOT_MOVED as $code) {
            $cases[$code] = [static function (Wire $kaspi) use ($code) { $kaspi->willSay(['StatusCode' => $code, 'Message' => 'no']); }];
        }

        return $cases;
    }

    public function testWhatWasNotSentIsTriedAgainAndThenUnavailable(): void
    {
        $this->kaspi->willFail(false, true)->willFail(false);
        $this->wire->willSay(['id' => 1]);
        try {
            $this->api()->createRemotePay(self::PAY, self::SHOP);
            $this->fail('it was taken for an answer');
        } catch (Unavailable $notSent) {
            // By these words the service knows that nothing was paid back, where it is a refund.
            $this->assertStringStartsWith('Nothing was sent: it broke', $this->wire->requests[1]['body']['error_message']);
        }
    }

    /**
     * A double click, a reload: Kaspi has no idempotency, and would do it twice.
     *
     * @dataProvider equals
     */
    public function testEqualCallWithinAMinuteIsTheSameOne(string $method, array $params, array $other): void
    {
        $said = ['StatusCode' => 0, 'Data' => ['QrPaymentId' => 12800627774]];
        $this->wire->willSay(['id' => 1])->willSay(['id' => 2])->willSay(['id' => 3]);
        $this->kaspi->willSay($said);
        $first = $this->api()->$method($params, self::SHOP);
        $this->assertSame($first['data'], $this->api()->$method(array_map('strval', $params), (string) self::SHOP)['data']);
        $this->assertCount(1, $this->kaspi->requests);
        $this->kaspi->willFail(true);
        for ($n = 0; $n < 2; ++$n) {
            try {
                $this->api()->$method($other + $params, self::SHOP);
                $this->fail('nobody knows its outcome');
            } catch (OutcomeUnknown $unknown) {
                $this->assertCount(2, $this->kaspi->requests);
            }
        }
        foreach (glob($this->folder . '/equal/*.json') as $path) {
            touch($path, time() - 61);
        }
        $this->kaspi->willSay($said);
        $this->api()->$method($params, self::SHOP);
        $this->assertCount(3, $this->kaspi->requests);
        // What nobody knows the outcome of waits until somebody has looked, or for a day.
        try {
            $this->api()->$method($other + $params, self::SHOP);
            $this->fail('nobody has looked');
        } catch (OutcomeUnknown $unknown) {
            $this->assertCount(3, $this->kaspi->requests);
        }
        $this->assertSame(1, (new EqualCalls($this->folder))->forgetUnknown());
        $this->wire->willSay(['id' => 4]);
        $this->kaspi->willSay($said);
        $this->api()->$method($other + $params, self::SHOP);
        $this->assertCount(4, $this->kaspi->requests);
    }

    /** A machine that loses its power leaves files empty, or half of them. */
    public function testCallWhoseFileIsDamagedIsNotMadeAgain(): void
    {
        $this->wire->willSay(['id' => 1]);
        $this->kaspi->willSay(['StatusCode' => 0, 'Data' => ['QrPaymentId' => 12800627774]]);
        $this->api()->createRemotePay(self::PAY, self::SHOP);
        [$path] = glob($this->folder . '/equal/*.json');
        foreach (['', '{"answer":', '[]'] as $left) {
            file_put_contents($path, $left);
            touch($path, time() - 3600);
            try {
                $this->api()->createRemotePay(self::PAY, self::SHOP);
                $this->fail('nobody knows its outcome');
            } catch (OutcomeUnknown $unknown) {
                $this->assertCount(1, $this->kaspi->requests);
            }
        }
        $this->assertSame(1, (new EqualCalls($this->folder))->forgetUnknown());
    }

    public function equals(): array
    {
        return [
            ['createRemotePay', self::PAY, ['Amount' => 7]],
            ['paymentReturn', ['QrPaymentId' => 12800627774, 'Amount' => '50.25'], ['Amount' => 7]],
        ];
    }

    public function testTwoBuyersMayScanCodesOfOneSum(): void
    {
        $this->kaspi->willSay(['StatusCode' => 0, 'Data' => ['QrPaymentId' => 5]])->willSay(['StatusCode' => 0, 'Data' => ['QrPaymentId' => 6]]);
        $this->wire->willSay(['id' => 1])->willSay(['id' => 2]);
        $this->api()->getCreteQr(['Amount' => 5], self::SHOP);
        $this->assertSame(6, $this->api()->getCreteQr(['Amount' => 5], self::SHOP)['data']['Data']['QrPaymentId']);
    }

    public function testCodeThatSaysThatTheRoutingIsWrongMakesTheNextCallAsk(): void
    {
        $this->kaspi->willSay(['StatusCode' => -99000003, 'Message' => 'no'])->willSay(['StatusCode' => 0, 'Data' => ['QrPaymentId' => 5]]);
        $this->wire->willSay(['id' => 1])->willSay($this->config(['organization_bin' => '210440028324']))->willSay(['id' => 2]);
        $this->api()->createRemotePay(self::PAY, self::SHOP);
        $this->api()->createRemotePay(self::PAY, self::SHOP);
        $this->assertSame('210440028324', $this->kaspi->requests[1]['body']['OrganizationBin']);
    }

    public function testInactiveShopIsNotPaid(): void
    {
        $this->wire = (new Wire())->willSayNo('shop_inactive', 403);
        $this->expectException(Inactive::class);
        $this->api()->createRemotePay(self::PAY, self::SHOP);
    }

    /** @dataProvider unfit */
    public function testRoutingThatIsNotFitForKaspiIsNotUsed(array $change, string $words): void
    {
        $this->wire = (new Wire())->willSay($this->config($change));
        $this->expectException(BadRequest::class);
        $this->expectExceptionMessage($words);
        $this->api()->createRemotePay(self::PAY, self::SHOP);
    }

    public function unfit(): array
    {
        return [
            [['device_token' => null], 'no device token'],
            [['device_token' => '00121038…'], 'secrets:read'],
            [['provider' => 'halyk'], 'not paid through Kaspi'],
            [['organization_bin' => ''], 'has no BIN'],
        ];
    }

    public function testReportThatFailsDoesNotHideWhatKaspiSaid(): void
    {
        $this->kaspi->willSay(['StatusCode' => 0, 'Data' => ['QrPaymentId' => 5]]);
        $this->wire->willSayNo('validation_failed', 422);
        $this->assertSame('accepted', $this->api()->createRemotePay(self::PAY, self::SHOP)['outcome']);
        $this->assertStringContainsString('ERROR report.failed', $this->log());
    }

    public function testAnswerAndLogHoldNoTokenAndNoPhone(): void
    {
        $this->kaspi->willSay(['StatusCode' => 0, 'Data' => ['QrPaymentId' => 5]]);
        $this->wire->willSay(['id' => 1]);
        $answer = json_encode($this->api()->createRemotePay(self::PAY, self::SHOP));
        foreach ([self::TOKEN, '77015211545', self::KEY] as $secret) {
            $this->assertStringNotContainsString($secret, $answer . $this->log());
        }
    }

    /** @dataProvider missing */
    public function testMissingSettingIsNamed(string $name): void
    {
        $this->expectException(BadRequest::class);
        $this->expectExceptionMessage($name);
        new ApiClient(array_fill_keys([$name], '') + ['client' => $this->client(), 'kaspi_url' => 'https://kaspi.example',
            'kaspi_certificate' => __FILE__, 'kaspi_key' => __FILE__]);
    }

    public function missing(): array
    {
        return [['kaspi_url'], ['kaspi_certificate'], ['kaspi_key']];
    }

    public function testSettingsComeFromTheModulesOptionsUnlessTheyAreGiven(): void
    {
        BitrixDouble::write('options.json', ['onelab.kaspipay' => ['kaspi_url' => 'https://of-the-options.example', 'payment_service_folder' => $this->folder]]);
        $this->kaspi->willSay(['StatusCode' => 0, 'Data' => ['Status' => 'Wait']])->willSay(['StatusCode' => 0]);
        (new ApiClient(['client' => $this->client(), 'http' => $this->kaspi]))->status(5);
        (new ApiClient(['client' => $this->client(), 'http' => $this->kaspi, 'kaspi_url' => 'https://given.example']))->status(5);
        $this->assertStringStartsWith('https://of-the-options.example/', $this->kaspi->requests[0]['url']);
        $this->assertStringStartsWith('https://given.example/', $this->kaspi->requests[1]['url']);
    }

    private function api(): ApiClient
    {
        return new ApiClient([
            'client' => $this->client(), 'http' => $this->kaspi, 'kaspi_url' => 'https://kaspi.example',
            'payment_service_folder' => $this->folder,
        ]);
    }

    private function client(): Client
    {
        return new Client('https://service.example', self::KEY, ['http' => $this->wire, 'clock' => $this->clock(), 'folder' => $this->folder]);
    }
}
