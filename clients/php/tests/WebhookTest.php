<?php

use Integration\PaymentService\BadRequest;
use Integration\PaymentService\BitrixOrders;
use Integration\PaymentService\OrderAccess;
use Integration\PaymentService\TakenPayments;
use Integration\PaymentService\WebhookReceiver;

/** Orders of a test: what was done to them, and a shop whose database may be away. */
final class TestOrders implements OrderAccess
{
    public $done = [];
    public $away = false;

    public function markPaid(string $orderId, int $tiyn, array $payment): string
    {
        return $this->note("paid $orderId $tiyn");
    }

    public function markRefunded(string $orderId, int $refundedTiyn, bool $wholly, array $payment): string
    {
        return $this->note("refunded $orderId $refundedTiyn" . ($wholly ? ' wholly' : ''));
    }

    private function note(string $what): string
    {
        if ($this->away) {
            throw new RuntimeException('the shop is away');
        }
        $this->done[] = $what;

        return self::DONE;
    }
}

final class WebhookTest extends SiteTest
{
    const PAYMENT = ['id' => '01a', 'state' => 'paid', 'order_id' => '7', 'amount' => 640.5, 'refunded_amount' => 0, 'external_id' => '777'];

    /** @var TestOrders */
    private $orders;

    protected function setUp(): void
    {
        parent::setUp();
        $this->orders = new TestOrders();
    }

    /** @dataProvider events */
    public function testEventDoesWhatItSays(string $type, array $change, array $done, string $word, array $ofRefund = []): void
    {
        $this->assertSame([200, $word], $this->deliver($this->event($type, $change, 1, $ofRefund)));
        $this->assertSame($done, $this->orders->done);
    }

    public function events(): array
    {
        return [
            ['payment.paid', [], ['paid 7 64050'], 'done'],
            ['payment.late_success', [], ['paid 7 64050'], 'done'],
            ['refund.succeeded', ['refunded_amount' => 40.5], ['paid 7 64050', 'refunded 7 4050'], 'done'],
            ['refund.succeeded', ['refunded_amount' => 640.5], ['refunded 7 64050 wholly'], 'done'],
            ['payment.paid', ['refunded_amount' => 640.5], ['refunded 7 64050 wholly'], 'done'],
            ['payment.paid', ['state' => 'failed'], [], 'ignored'],
            ['payment.paid', ['order_id' => null], [], 'no_such_order'],
            ['payment.failed', ['state' => 'failed'], [], 'ignored'],
            ['payment.unknown', ['state' => 'unknown'], [], 'ignored'],
            ['payment.unknown', ['state' => 'unknown', 'error_code' => 'settlement_undone'], [], 'settlement_undone'],
            ['refund.failed', [], ['paid 7 64050'], 'done'],
            ['refund.unknown', [], ['paid 7 64050'], 'done'],
            ['refund.unknown', ['refunded_amount' => 40.5], ['paid 7 64050', 'refunded 7 4050'], 'done'],
            ['refund.unknown', [], [], 'settlement_undone', ['error_code' => 'settlement_undone']],
            ['refund.failed', ['order_id' => null], [], 'no_such_order'],
            ['something.new', [], [], 'ignored'],
            ['route.changed', ['state' => null], [], 'ignored'],
        ];
    }

    public function testSameEventIsTakenOnce(): void
    {
        $body = $this->event('payment.paid');
        $this->assertSame([200, 'done'], $this->deliver($body));
        $this->now += 86400;
        $this->assertSame([200, 'repeated'], $this->deliver($body));
        $this->assertCount(1, $this->orders->done);
    }

    public function testOlderEventThatComesLateIsDropped(): void
    {
        $this->deliver($this->event('refund.succeeded', ['refunded_amount' => 640.5], 5), 'b');
        $this->assertSame([200, 'older'], $this->deliver($this->event('payment.paid', [], 4), 'a'));
        $this->assertCount(1, $this->orders->done);
    }

    public function testPaymentThatIsOvertakenByItsRefundInPartIsPaidAllTheSame(): void
    {
        $this->deliver($this->event('refund.succeeded', ['refunded_amount' => 40.5], 5), 'b');
        $this->assertSame([200, 'older'], $this->deliver($this->event('payment.paid', [], 4), 'a'));
        $this->assertSame(['paid 7 64050', 'refunded 7 4050'], $this->orders->done);
    }

    /** @dataProvider ofRefunds */
    public function testPaymentThatIsOvertakenByAnyEventOfItsRefundIsPaidAllTheSame(string $type): void
    {
        $this->deliver($this->event($type, [], 5), 'b');
        $this->assertSame([200, 'older'], $this->deliver($this->event('payment.paid', [], 3), 'a'));
        $this->assertSame(['paid 7 64050'], $this->orders->done);
    }

    public function ofRefunds(): array
    {
        return [['refund.failed'], ['refund.unknown']];
    }

    /** Whether it was taken is forgotten by then, and so is what came after it. */
    public function testEventOfBeforeAllThatIsRememberedIsForPeople(): void
    {
        $paid = $this->event('payment.paid');
        $this->now += (TakenPayments::KEPT_DAYS - 1) * 86400;
        $this->assertSame([200, 'done'], $this->deliver($paid));
        $another = $this->event('payment.paid', ['id' => '01c']);
        $this->now += TakenPayments::KEPT_DAYS * 86400 + 1;
        $this->assertSame([200, 'forgotten'], $this->deliver($another));
        $this->assertSame([200, 'ignored'], $this->deliver($this->event('payment.failed', ['id' => '01d', 'state' => 'failed'])));
        $this->assertCount(1, $this->orders->done);
        $this->assertStringContainsString('webhook.needs_people', $this->log());
    }

    public function testEventIsAskedForAgainWhileTheShopIsAway(): void
    {
        $this->orders->away = true;
        $this->assertSame([500, 'try_again'], $this->deliver($this->event('payment.paid')));
        $this->orders->away = false;
        $this->assertSame([200, 'done'], $this->deliver($this->event('payment.paid')));
    }

    /** @dataProvider lies */
    public function testDeliveryThatIsNotGenuineIsRefused(callable $spoil, int $status, string $word): void
    {
        $body = $this->event('payment.paid');
        $headers = $this->headers($body);
        $spoil($headers, $body);
        $this->assertSame([$status, $word], $this->receiver()->receive($headers, $body));
        $this->assertSame([], $this->orders->done);
    }

    public function lies(): array
    {
        return [
            'another body' => [static function (&$headers, &$body) { $body .= ' '; }, 401, 'bad_signature'],
            'another id' => [static function (&$headers) { $headers['webhook-id'] = 'x'; }, 401, 'bad_signature'],
            'another time' => [static function (&$headers) { ++$headers['webhook-timestamp']; }, 401, 'bad_signature'],
            'no signature' => [static function (&$headers) { $headers['webhook-signature'] = ''; }, 401, 'bad_signature'],
            'another version' => [static function (&$headers) { $headers['webhook-signature'][1] = '2'; }, 401, 'bad_signature'],
            'no headers' => [static function (&$headers) { $headers = []; }, 400, 'bad_headers'],
            'a time that is none' => [static function (&$headers) { $headers['webhook-timestamp'] = '1e9'; }, 400, 'bad_headers'],
            'too large' => [static function (&$headers, &$body) { $body = str_repeat(' ', 65537); }, 413, 'too_large'],
        ];
    }

    /** @dataProvider ages */
    public function testEventIsBelievedForFiveMinutes(int $age, int $status): void
    {
        $body = $this->event('payment.paid');
        $headers = $this->headers($body);
        $this->now += $age;
        $this->assertSame($status, $this->receiver()->receive($headers, $body)[0]);
    }

    public function ages(): array
    {
        return [[300, 200], [301, 400], [-300, 200], [-301, 400]];
    }

    public function testEitherSecretIsGoodWhileItIsBeingChanged(): void
    {
        $body = $this->event('payment.paid');
        $headers = $this->headers($body);
        $other = 'whsec_' . base64_encode(str_repeat('b', 24));
        $receiver = new WebhookReceiver([$other, $this->secret()], $this->orders, $this->folder, null, $this->clock());
        $this->assertSame(200, $receiver->receive($headers, $body)[0]);
    }

    public function testAnyGoodSignatureOfSeveralIsEnough(): void
    {
        $body = $this->event('payment.paid');
        $headers = $this->headers($body);
        $bad = 'v1,' . base64_encode(str_repeat('x', 32));
        $headers['webhook-signature'] = "$bad {$headers['webhook-signature']} $bad";
        $this->assertSame(200, $this->receiver()->receive($headers, $body)[0]);
    }

    public function testBodyThatIsNoEventIsRefused(): void
    {
        foreach (['[]', '"text"', 'null', '{"type": "payment.paid"}', '{"type": 5, "data": {}}', 'no json'] as $body) {
            $this->assertSame([400, 'no_event'], $this->deliver($body));
        }
    }

    /** @dataProvider noSecrets */
    public function testSecretThatIsNoneIsRefused(array $secrets): void
    {
        $this->expectException(BadRequest::class);
        new WebhookReceiver($secrets, $this->orders, $this->folder);
    }

    public function noSecrets(): array
    {
        return [[[]], [['']], [['secret']], [['whsec_']], [['whsec_!!']], [['whsec_' . base64_encode('short')]]];
    }

    /** @dataProvider orders */
    public function testBitrixOrderIsMarkedOnlyWhenItFits(array $payments, $orderId, string $word, array $paid): void
    {
        BitrixDouble::write('orders.json', [7 => $payments]);
        $this->assertSame($word, (new BitrixOrders())->markPaid($orderId, 64050, self::PAYMENT));
        $this->assertSame($paid, array_column(BitrixDouble::read('orders.json')[7], 'PAID'));
    }

    public function orders(): array
    {
        $ours = ['SUM' => 640.5, 'PAID' => 'N'];

        return [
            'ours' => [[$ours], '7', 'done', ['Y']],
            'the second' => [[['SUM' => 10.0, 'PAID' => 'N'], $ours], '7', 'done', ['N', 'Y']],
            'one of two alike' => [[$ours, $ours], '7', 'done', ['Y', 'N']],
            'paid before' => [[['PAID' => 'Y', 'PAY_VOUCHER_NUM' => '777'] + $ours], '7', 'already', ['Y']],
            'paid by another one' => [[['PAID' => 'Y', 'PAY_VOUCHER_NUM' => '5'] + $ours], '7', 'amount_differs', ['Y']],
            'paid by hand' => [[['PAID' => 'Y'] + $ours], '7', 'already', ['Y']],
            'one paid by hand, one free' => [[['PAID' => 'Y'] + $ours, $ours], '7', 'done', ['Y', 'Y']],
            'inner account' => [[['INNER' => 'Y'] + $ours], '7', 'amount_differs', ['N']],
            'another sum' => [[['SUM' => 640.0] + $ours], '7', 'amount_differs', ['N']],
            'no such order' => [[$ours], '8', 'no_such_order', ['N']],
            'no number' => [[$ours], 'abc', 'no_such_order', ['N']],
        ];
    }

    public function testMoneyOfAnotherShopMarksNoOrderOfASiteThatKnowsWhoseItIs(): void
    {
        BitrixDouble::write('orders.json', [7 => [['SUM' => 640.5, 'PAID' => 'N']]]);
        $orders = new class extends BitrixOrders {
            protected function shopOf($order): ?int
            {
                return 121038;
            }
        };
        $this->assertSame('seller_differs', $orders->markPaid('7', 64050, ['shop_id' => 576631] + self::PAYMENT));
        $this->assertSame('seller_differs', $orders->markPaid('7', 64050, self::PAYMENT));
        $this->assertSame('N', BitrixDouble::read('orders.json')[7][0]['PAID']);
        $this->assertSame('done', $orders->markPaid('7', 64050, ['shop_id' => 121038] + self::PAYMENT));
    }

    /** As when Bitrix was put back to a backup, and counts its orders from there once more. */
    public function testPaymentThatIsOlderThanTheOrderIsOfAnotherOneOfThatNumber(): void
    {
        BitrixDouble::write('orders.json', [7 => ['payments' => [['SUM' => 640.5, 'PAID' => 'N']], 'DATE_INSERT' => '2026-11-21 12:00:00']]);
        $orders = new BitrixOrders();
        $made = static function (string $at): array {
            return ['created_at' => $at] + self::PAYMENT;
        };
        $this->assertSame('no_such_order', $orders->markPaid('7', 64050, $made('2026-11-21T11:40:00.000000Z')));
        $this->assertSame('no_such_order', $orders->markRefunded('7', 64050, true, $made('2026-11-21T11:40:00.000000Z')));
        $this->assertSame('N', BitrixDouble::read('orders.json')[7]['payments'][0]['PAID']);
        $this->assertSame('done', $orders->markPaid('7', 64050, $made('2026-11-21T11:59:00.000000Z')));
    }

    public function testBitrixRefundIsNotedAndNeverAsksForMoney(): void
    {
        BitrixDouble::write('orders.json', [7 => [['SUM' => 640.5, 'PAID' => 'Y', 'PAY_VOUCHER_NUM' => '777']]]);
        $orders = new BitrixOrders();
        $this->assertSame('done', $orders->markRefunded('7', 4050, false, self::PAYMENT));
        $this->assertSame('already', $orders->markRefunded('7', 4050, false, self::PAYMENT));
        list($payment) = BitrixDouble::read('orders.json')[7];
        $this->assertSame(['Y', 'Refunded 40.50 of 640.50 tenge'], [$payment['PAID'], $payment['PAY_RETURN_COMMENT']]);
        $orders->markRefunded('7', 64050, true, self::PAYMENT);
        $this->assertSame('N', BitrixDouble::read('orders.json')[7][0]['PAID']);
    }

    /** As when the service replays a month, and this site has forgotten which events it took. */
    public function testEventOfBeforeTheRefundDoesNotMarkWhatWasRefundedAsPaid(): void
    {
        BitrixDouble::write('orders.json', [7 => [['SUM' => 640.5]]]);
        $orders = new BitrixOrders();
        $orders->markPaid('7', 64050, self::PAYMENT);
        $orders->markRefunded('7', 64050, true, self::PAYMENT);
        $this->assertSame('already', $orders->markPaid('7', 64050, self::PAYMENT));
        $this->assertSame('N', BitrixDouble::read('orders.json')[7][0]['PAID']);
    }

    public function testOrderThatBitrixDoesNotSaveIsAnError(): void
    {
        BitrixDouble::write('orders.json', [7 => [['SUM' => 640.5]]]);
        Bitrix\Sale\Order::$fails = ['locked'];
        $this->expectExceptionMessage('locked');
        try {
            (new BitrixOrders())->markPaid('7', 64050, self::PAYMENT);
        } finally {
            Bitrix\Sale\Order::$fails = [];
        }
    }

    private function event(string $type, array $change = [], int $version = 1, array $ofRefund = []): string
    {
        $payment = $change + ['version' => $version] + self::PAYMENT;
        $isRefund = strncmp($type, 'refund.', 7) === 0;
        $refund = $ofRefund + ['id' => '01b', 'version' => 2, 'amount' => 40.5, 'state' => 'succeeded', 'payment' => $payment];
        $data = $isRefund ? $refund : $payment;

        return json_encode(['id' => 'e', 'type' => $type, 'version' => $data['version'], 'timestamp' => gmdate('Y-m-d\TH:i:s.u\Z', $this->now), 'data' => $data]);
    }

    private function deliver(string $body, string $id = 'msg_1'): array
    {
        return $this->receiver()->receive($this->headers($body, $id), $body);
    }

    private function headers(string $body, string $id = 'msg_1'): array
    {
        $signature = base64_encode(hash_hmac('sha256', "$id.{$this->now}.$body", str_repeat('a', 24), true));

        return ['webhook-id' => $id, 'webhook-timestamp' => (string) $this->now, 'webhook-signature' => "v1,$signature"];
    }

    private function secret(): string
    {
        return 'whsec_' . base64_encode(str_repeat('a', 24));
    }

    private function receiver(): WebhookReceiver
    {
        return new WebhookReceiver([$this->secret()], $this->orders, $this->folder, null, $this->clock());
    }
}
