<?php

use Integration\PaymentService\BadRequest;
use Integration\PaymentService\Client;
use Integration\PaymentService\NotFound;
use Integration\PaymentService\OutcomeUnknown;
use Integration\PaymentService\PaymentServiceException;
use Integration\PaymentService\Rejected;
use Integration\PaymentService\Unavailable;

final class ClientTest extends SiteTest
{
    const ORDER = ['shop_id' => self::SHOP, 'order_id' => '12345', 'amount' => 100, 'phone' => '77015211545'];
    const MADE = ['id' => '01a', 'state' => 'pending', 'shop_id' => self::SHOP, 'order_id' => '12345', 'success' => true];

    /** @dataProvider addresses */
    public function testAddressMayEndInApiOrNot(string $url): void
    {
        $this->wire->willSay(['status' => 'ok']);
        $this->assertTrue($this->client($url)->healthCheck());
        $this->assertSame('https://service.example/api/health', $this->wire->requests[0]['url']);
    }

    public function addresses(): array
    {
        return [['https://service.example'], ['https://service.example/'], ['https://service.example/api'], ['https://service.example/api/']];
    }

    /** @dataProvider noAddresses */
    public function testAddressThatIsNotSafeIsRefused(string $url): void
    {
        $this->expectException(BadRequest::class);
        $this->client($url);
    }

    public function noAddresses(): array
    {
        return [[''], ['service.example'], ['http://service.example'], ['ftp://service.example'], ['https://u:p@service.example'], ['https://service.example/?a=1'],
            ['http://127.0.0.1.example']];
    }

    public function testCallsWaitThreeSecondsToConnectAndTenInAll(): void
    {
        $http = (function () {
            return $this->http;
        })->call(new Client('https://service.example', self::KEY, ['folder' => $this->folder]));
        $times = (function () {
            return [$this->connectTimeoutS, $this->totalTimeoutS];
        })->call($http);
        $this->assertSame([3.0, 10.0], $times);
    }

    public function testPaymentIsSentAsTheServiceWantsIt(): void
    {
        $this->wire->willSay(self::MADE);
        $this->client()->createPayment(['amount' => 17500.5, 'message' => 'Букет', 'metadata' => ['n' => 5]] + self::ORDER);
        $request = $this->wire->requests[0];
        $this->assertSame('https://service.example/payments/kaspi/create', $request['url']);
        $this->assertSame('Bearer ' . self::KEY, $request['headers']['Authorization']);
        $this->assertEquals(
            ['shop_id' => self::SHOP, 'order_id' => '12345', 'amount' => '17500.50', 'phone' => '77015211545', 'message' => 'Букет', 'metadata' => ['n' => '5']],
            $request['body']
        );
    }

    public function testKeyIsOfTheOrderTheOperationAndTheAttempt(): void
    {
        $keys = [];
        foreach ([[], ['order_id' => '12346'], ['shop_id' => 8], ['attempt' => 2]] as $change) {
            $order = $change + self::ORDER;
            $this->wire->willSay(array_intersect_key($order, ['shop_id' => 0, 'order_id' => 0]) + self::MADE);
            $this->client()->createPayment($order);
            $keys[] = end($this->wire->requests)['headers']['Idempotency-Key'];
        }
        $this->wire->willSay(self::MADE);
        $this->client()->createPaymentLink(self::ORDER);
        $keys[] = end($this->wire->requests)['headers']['Idempotency-Key'];
        $this->assertCount(5, array_unique($keys));
        $this->assertSame('bx1-' . substr(hash('sha256', "payment-service\ncreate\n121038\n12345\n1"), 0, 48), $keys[0]);
        foreach ($keys as $key) {
            $this->assertMatchesRegularExpression('/^[!-~]{8,128}$/D', $key);
        }
    }

    public function testKeyOfARefundDoesNotDependOnHowTheAmountIsWritten(): void
    {
        $keys = [];
        foreach ([[50], ['50.00'], [50.0], [50, ['attempt' => 2]], ['50.01']] as $arguments) {
            $this->wire->willSay(['state' => 'succeeded', 'shop_id' => self::SHOP, 'external_id' => '777']);
            $this->client()->refund(self::SHOP, 777, ...$arguments);
            $keys[] = end($this->wire->requests)['headers']['Idempotency-Key'];
        }
        $this->assertSame([$keys[0], $keys[0], $keys[0]], array_slice($keys, 0, 3));
        $this->assertCount(3, array_unique($keys));
    }

    public function testAnswerToAnEarlierCallSaysSo(): void
    {
        $refunded = ['state' => 'succeeded', 'shop_id' => self::SHOP, 'external_id' => '777'];
        $this->wire->willSay($refunded)->willSay($refunded, 200, ['idempotency-replayed' => 'true']);
        $this->assertArrayNotHasKey('replayed', $this->client()->refund(self::SHOP, 777, 50));
        $this->assertTrue($this->client()->refund(self::SHOP, 777, 50)['replayed']);
    }

    public function testAllThatIsLeftIsRefundedOnlyWhenThatIsSaid(): void
    {
        $this->wire->willSay(['state' => 'succeeded', 'shop_id' => self::SHOP, 'external_id' => '777']);
        $this->client()->refundAll(self::SHOP, 777);
        $sent = end($this->wire->requests);
        $this->assertSame(['shop_id' => self::SHOP, 'external_id' => '777', 'full' => true], $sent['body']);
        $this->assertSame('bx1-' . substr(hash('sha256', "payment-service\nrefund\n121038\n777\nall\n1"), 0, 48), $sent['headers']['Idempotency-Key']);
    }

    public function testOnlyWhatWasSurelyNotSentIsTriedAgain(): void
    {
        $this->wire->willFail(false, true)->willSayNo('not_sent', 503)->willSay(self::MADE);
        $this->assertSame('01a', $this->client()->createPayment(self::ORDER)['id']);
        $this->assertCount(1, array_unique(array_column(array_column($this->wire->requests, 'headers'), 'Idempotency-Key')));
    }

    public function testTriesEnd(): void
    {
        $this->wire->willFail(false, true)->willFail(false, true)->willFail(false, true);
        $this->expectException(Unavailable::class);
        $this->client()->createPayment(self::ORDER);
    }

    /** @dataProvider endings */
    public function testEveryAnswerHasItsKind(callable $say, string $kind, string $code = ''): void
    {
        $say($this->wire);
        try {
            $this->client()->createPayment(self::ORDER);
            $this->fail('it was taken for a payment');
        } catch (PaymentServiceException $problem) {
            $this->assertSame($kind, get_class($problem));
            $this->assertSame($code, $problem->getErrorCode());
        }
        $this->assertCount(1, $this->wire->requests);
    }

    public function endings(): array
    {
        $no = static function (string $code, int $status): callable {
            return static function (Wire $wire) use ($code, $status) {
                $wire->willSayNo($code, $status);
            };
        };
        $say = static function ($body, int $status): callable {
            return static function (Wire $wire) use ($body, $status) {
                $wire->willSay($body, $status);
            };
        };
        $fail = static function (bool $sent): callable {
            return static function (Wire $wire) use ($sent) {
                $wire->willFail($sent);
            };
        };

        return [
            'lost' => [$fail(true), OutcomeUnknown::class],
            'not connected in time' => [$fail(false), Unavailable::class],
            '202' => [$say(['id' => '01a', 'state' => 'unknown', 'detail' => 'Look.'], 202), OutcomeUnknown::class],
            'html' => [$say('<html>', 200), OutcomeUnknown::class],
            'cut' => [$say('{"id": "01a", "sta', 200), OutcomeUnknown::class],
            'of another shop' => [$say(['shop_id' => 8] + self::MADE, 200), OutcomeUnknown::class],
            'of another order' => [$say(['order_id' => '1'] + self::MADE, 200), OutcomeUnknown::class],
            'redirect' => [$say('', 302), OutcomeUnknown::class],
            'gateway' => [$say('bad gateway', 502), OutcomeUnknown::class],
            'internal' => [$no('internal_error', 500), OutcomeUnknown::class, 'internal_error'],
            'an equal refund is open' => [$no('refund_already_open', 409), OutcomeUnknown::class, 'refund_already_open'],
            'still running' => [$no('still_running', 409), OutcomeUnknown::class, 'still_running'],
            'draining' => [$no('draining', 503), Unavailable::class, 'draining'],
            'too often' => [$no('rate_limited', 429), Unavailable::class, 'rate_limited'],
            'too many connections' => [$no('too_many_connections', 503), Unavailable::class, 'too_many_connections'],
            'cut on the way' => [$no('request_timeout', 408), Unavailable::class, 'request_timeout'],
            'database' => [$no('database_unavailable', 503), Unavailable::class, 'database_unavailable'],
            'not configured' => [$no('shop_not_configured', 404), NotFound::class, 'shop_not_configured'],
            'rejected' => [$no('payment_rejected', 422), Rejected::class, 'payment_rejected'],
            'paid already' => [$no('order_already_paid', 409), Rejected::class, 'order_already_paid'],
            'proxy refused' => [$no('provider_refused', 502), Rejected::class, 'provider_refused'],
            'no token' => [$no('device_token_missing', 400), BadRequest::class, 'device_token_missing'],
            'key reused' => [$no('idempotency_key_reused', 422), BadRequest::class, 'idempotency_key_reused'],
            'scope' => [$no('scope_missing', 403), BadRequest::class, 'scope_missing'],
            'a code of tomorrow' => [$no('new_word', 418), BadRequest::class, 'new_word'],
        ];
    }

    public function testKaspisOwnCodeIsInTheException(): void
    {
        $this->wire->willSayNo('payment_rejected', 422, ['provider_code' => '-1502', 'id' => '01a', 'request_id' => 'r1']);
        try {
            $this->client()->createPayment(self::ORDER);
            $this->fail('it was taken for a payment');
        } catch (Rejected $no) {
            $this->assertSame(['-1502', '01a', 'r1', 422], [$no->getProviderCode(), $no->getPaymentId(), $no->getRequestId(), $no->getHttpStatus()]);
        }
    }

    public function testNoLogHoldsAPhoneOrAKey(): void
    {
        $this->wire->willSay(self::MADE)->willSayNo('payment_rejected', 422, ['detail' => 'No for 77015211545 and ' . self::KEY]);
        $this->client()->createPayment(self::ORDER);
        try {
            $this->client()->createPayment(self::ORDER);
        } catch (Rejected $no) {
            $this->assertStringContainsString('***1545', $this->log());
        }
        $this->assertStringNotContainsString('77015211545', $this->log());
        $this->assertStringNotContainsString(self::KEY, $this->log());
    }

    public function testWaitingEndsWhenThePaymentEnds(): void
    {
        foreach (['pending', 'unknown'] as $state) {
            $this->wire->willSay(['id' => '01a', 'state' => $state]);
        }
        $this->wire->willFail(true)->willSay(['id' => '01b', 'state' => 'paid'])->willSay(['id' => '01A', 'state' => 'paid']);
        $this->assertSame('paid', $this->client()->waitForPayment('01a', 10, 0)['state']);
    }

    public function testWaitingEndsInTime(): void
    {
        $this->wire->willSay(['id' => '01a', 'state' => 'pending']);
        $this->assertSame('pending', $this->client()->waitForPayment('01a', 0, 0)['state']);
    }

    public function testEveryPageOfWhatWasPaidIsRead(): void
    {
        $one = static function (string $id, string $state = 'paid'): array {
            return ['id' => $id, 'state' => $state];
        };
        $this->wire->willSay(['items' => [$one('01a'), $one('01b')], 'next_cursor' => 'more']);
        $this->wire->willSay(['items' => [$one('01c')], 'next_cursor' => null]);
        $found = iterator_to_array($this->client()->findPaid(0), false);
        $this->assertSame(['01a', '01b', '01c'], array_column($found, 'id'));
        $this->assertStringContainsString('state=paid&since=1970-01-01T00%3A00%3A00Z&limit=500&cursor=more', $this->wire->requests[1]['url']);

        $this->wire->willSay(['items' => [$one('01d', 'pending')], 'next_cursor' => null]);
        $this->expectException(Unavailable::class);
        iterator_to_array($this->client()->findPaid(0), false);
    }

    /** @dataProvider crossed */
    public function testAnswerAboutAnotherPaymentIsNone(string $method, array $arguments, array $answer): void
    {
        $this->wire->willSay($answer);
        $this->expectException(Unavailable::class);
        $this->client()->$method(...$arguments);
    }

    public function crossed(): array
    {
        return [
            ['getPayment', ['01a'], ['id' => '01b', 'state' => 'paid']],
            ['getPayment', ['01a'], ['state' => 'paid']],
            ['getPaymentStatus', [777], ['external_id' => '778', 'state' => 'paid']],
            ['findPayments', [self::SHOP, '12345'], ['items' => [['order_id' => '12346', 'state' => 'paid']]]],
        ];
    }

    /** @dataProvider wrong */
    public function testCallThatMakesNoSenseIsNotSent(string $method, array $arguments): void
    {
        $this->expectException(BadRequest::class);
        $this->client()->$method(...$arguments);
    }

    public function wrong(): array
    {
        return [
            ['createPayment', [['order_id' => ' '] + self::ORDER]],
            ['createPayment', [['phone' => ''] + self::ORDER]],
            ['createPayment', [['amount' => '1.001'] + self::ORDER]],
            ['createPayment', [['shop_id' => '8; DROP'] + self::ORDER]],
            ['createPayment', [['order_id' => "1\n2"] + self::ORDER]],
            ['createPaymentLink', [[]]],
            ['getPaymentStatus', ['../admin/configs']],
            ['refund', [self::SHOP, '12?x=1', 5]],
            ['refund', [self::SHOP, '777']],
            ['refund', [self::SHOP, '777', null]],
            ['getPaymentConfig', [0]],
            ['getPaymentConfig', [null]],
            ['createPaymentLog', [['shop_id' => 8]]],
        ];
    }

    private function client(string $url = 'https://service.example/api'): Client
    {
        return new Client($url, self::KEY, ['http' => $this->wire, 'clock' => $this->clock(), 'folder' => $this->folder, 'pauses_s' => [0, 0]]);
    }
}
