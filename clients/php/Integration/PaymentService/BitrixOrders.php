<?php

namespace Integration\PaymentService;

/**
 * Orders of Bitrix's module sale: the one place where a payment of Bitrix is marked.
 *
 * A payment that the payment system handler asked for has an order_id that names the payment of Bitrix (BitrixPaymentId), and
 * has to be of the seller that the rule in its settings says. Any other order_id is the ID of the order, as Order::getId()
 * gives it; a site that uses account numbers extends this class and overrides load().
 *
 * Marking is done by one process at a time, and as Bitrix's own Service::processRequest() does it: its event, its PS_* fields,
 * its markers. What only people can decide is told to them and marks nothing as paid.
 */
class BitrixOrders implements OrderAccess
{
    /** The folder of the payment system handler, below sale_payment. */
    const HANDLER = 'cvetykaspi';
    const CURRENCY = 'KZT';
    /** Seconds by which two clocks may differ. */
    const CLOCKS_DIFFER_S = 600;
    const ID = '/^[1-9]\d{0,9}$/D';

    private $folder;
    private $people;

    /** @param string|null $folder the client's own folder; left out: as the site has set it */
    public function __construct(?string $folder = null, ?Log $log = null)
    {
        $this->folder = $folder ?? (string) (new SiteSettings())->folder();
        $this->people = new People($log ?? new Log($this->folder === '' ? null : $this->folder));
    }

    public function markPaid(string $orderId, int $tiyn, array $payment): string
    {
        return $this->alone($orderId, function ($order, $named) use ($orderId, $tiyn, $payment): string {
            if ($order === null) {
                return $this->leaveWithoutOrder($orderId, $tiyn, $payment);
            }
            $ours = $this->paymentOf($order, $named, $tiyn, $payment);
            if (!is_object($ours)) {
                return $this->leave($order, $ours, $tiyn, $payment);
            }
            if (self::isWhollyRefunded($ours, $tiyn, $payment)) {
                return self::ALREADY;  // an event of before the refund may come after it: a replay, an events' memory that was lost
            }
            if ($ours->isPaid()) {
                $isNoted = $ours->getField('PS_STATUS') === 'Y' && $ours->getField('PS_INVOICE_ID') === (string) ($payment['id'] ?? '');
                $isMarkedByUs = (string) $ours->getField('PAY_VOUCHER_NUM') !== '' || $isNoted;

                return $named === null || $isMarkedByUs ? self::ALREADY : $this->noteBeside($order, $ours, $tiyn, $payment);
            }
            if ($order->isCanceled()) {
                return $this->leave($order, self::ORDER_CANCELLED, $tiyn, $payment, $ours);
            }
            (new \Bitrix\Main\Event('sale', 'OnSalePsServiceProcessRequestBeforePaid', [
                'payment' => $ours,
                'status' => 'Y',
                'pay_system_id' => $ours->getPaymentSystemId(),
            ]))->send();
            self::insist($ours->setPaid('Y'));
            self::insist($ours->setFields(self::facts($payment, 'Y', $tiyn) + [
                'PAY_VOUCHER_NUM' => (string) ($payment['external_id'] ?? ''),
                'PAY_VOUCHER_DATE' => new \Bitrix\Main\Type\Date(),
            ]));
            self::insist($order->save());

            return self::DONE;
        });
    }

    public function markRefunded(string $orderId, int $refundedTiyn, bool $wholly, array $payment): string
    {
        return $this->alone($orderId, function ($order, $named) use ($refundedTiyn, $wholly, $payment): string {
            if ($order === null) {
                return self::NO_SUCH_ORDER;
            }
            $tiyn = Amount::tiyn($payment['amount'] ?? null);
            $ours = $this->paymentOf($order, $named, $tiyn, $payment);
            if (!is_object($ours)) {
                return $wholly ? $ours : $this->leave($order, $ours, $tiyn, $payment);  // Kaspi has nothing of it any more
            }
            if (self::refundedOf($ours) === $refundedTiyn) {
                return self::ALREADY;  // also when somebody marked it as paid since: then it was paid in another way
            }
            // Not setReturn(): Bitrix would ask the pay system to pay back once more, or credit the buyer's inner account.
            // What somebody marked as paid in another way stays paid.
            if ($wholly && $ours->isPaid() && ($named === null || (string) $ours->getField('PAY_VOUCHER_NUM') !== '')) {
                self::insist($ours->setPaid('N'));
            }
            // A payment that is known by its sum is known by Kaspi's id from now on.
            $voucher = $named === null ? ['PAY_VOUCHER_NUM' => (string) ($payment['external_id'] ?? '')] : [];
            self::insist($ours->setFields(self::refundFacts($ours, $payment, $tiyn, $refundedTiyn) + $voucher));
            self::insist($order->save());

            return self::DONE;
        });
    }

    /**
     * Bring a payment of Bitrix to what the service says of it, for pages and checks. Events come through WebhookReceiver.
     *
     * @param array $payment as GET /payments/{id} shows it
     * @return string one of the words of OrderAccess; '' when there is nothing to mark
     */
    public function settle(BitrixPaymentId $id, array $payment): string
    {
        return ($payment['order_id'] ?? '') === (string) $id ? Marking::apply($this, (string) $id, $payment) : '';
    }

    /** Mark a payment for the managers, as Bitrix's own handlers do, and tell people. */
    public function mark(BitrixPaymentId $id, string $what): void
    {
        $this->alone((string) $id, function ($order) use ($id, $what): string {
            if ($order === null) {
                return self::NO_SUCH_ORDER;
            }
            $this->tell($order, $order->getPaymentCollection()->getItemById($id->payment), $what, []);

            return self::DONE;
        });
    }

    /** What a payment of Bitrix shows as paid back so far, in tiyn. PS_SUM is what Kaspi still has of it. */
    public static function refundedOf($payment): int
    {
        $kept = $payment->getField('PS_SUM');

        return $kept === null || $kept === '' ? 0 : (int) round($payment->getSum() * 100) - (int) round($kept * 100);
    }

    /**
     * The word that says why what the service has is not for this payment of Bitrix as it is now; '' when it is.
     *
     * @param array $payment as GET /payments/{id} shows it
     */
    public static function misfit($ours, array $payment): string
    {
        // A payment that shows this invoice is its own, however the command line's time zone reads the order's date.
        $isShown = (string) $ours->getField('PS_INVOICE_ID') === (string) ($payment['id'] ?? '');
        if (!$isShown && self::isOfAnEarlierOrder($ours->getOrder(), $payment)) {
            return self::NO_SUCH_ORDER;
        }
        if (self::CURRENCY !== $ours->getField('CURRENCY') || self::CURRENCY !== ($payment['currency'] ?? self::CURRENCY)) {
            return self::CURRENCY_DIFFERS;
        }
        try {
            $isSellers = SellerRule::shopOf($ours) === ($payment['shop_id'] ?? null);
        } catch (BadRequest $nobodyKnows) {
            $isSellers = false;
        }
        if (!$isSellers) {
            return self::SELLER_DIFFERS;
        }

        return (int) round($ours->getSum() * 100) === Amount::tiyn($payment['amount'] ?? null) ? '' : self::AMOUNT_DIFFERS;
    }

    /** Whether all of this very payment of Kaspi's was paid back. */
    private static function isWhollyRefunded($ours, int $tiyn, array $payment): bool
    {
        $returned = (string) $ours->getField('PAY_RETURN_NUM');

        return $returned !== '' && $returned === (string) ($payment['external_id'] ?? '') && self::refundedOf($ours) >= $tiyn;
    }

    /** The fields that tell of a refund. */
    public static function refundFacts($ours, array $payment, int $tiyn, int $refundedTiyn): array
    {
        $said = 'Refunded ' . Amount::text($refundedTiyn) . ' of ' . Amount::text($tiyn) . ' tenge';
        $comment = (string) $ours->getField('PAY_RETURN_COMMENT');
        $facts = ['PS_STATUS_DESCRIPTION' => $said] + self::facts($payment, 'Y', $tiyn - $refundedTiyn) + [
            'PAY_RETURN_NUM' => (string) ($payment['external_id'] ?? ''),
            'PAY_RETURN_DATE' => new \Bitrix\Main\Type\Date(),
        ];

        // What a manager wrote stays.
        return $comment === '' || strncmp($comment, 'Refunded ', 9) === 0 ? $facts + ['PAY_RETURN_COMMENT' => $said] : $facts;
    }

    /** Whether a payment of Bitrix is one of the payment system handler. */
    public static function isThroughKaspi($payment): bool
    {
        $system = $payment->getPaySystem();

        return $system !== null && strtolower(basename((string) $system->getField('ACTION_FILE'))) === self::HANDLER;
    }

    /** @return \Bitrix\Sale\Payment|null a payment of the payment system handler, with its order as it is now */
    public static function paymentById(string $id)
    {
        \Bitrix\Main\Loader::includeModule('sale');
        list($orderId, $paymentId) = preg_match(self::ID, $id) ? \Bitrix\Sale\PaySystem\Manager::getIdsByPayment($id) : [0, 0];
        $order = $orderId > 0 ? \Bitrix\Sale\Order::load($orderId) : null;
        $payment = $order === null ? null : $order->getPaymentCollection()->getItemById($paymentId);

        return $payment !== null && self::isThroughKaspi($payment) ? $payment : null;
    }

    /** @return int[] the payment systems of the handler */
    public static function systems(): array
    {
        $systems = [];
        $found = \Bitrix\Sale\PaySystem\Manager::getList(['select' => ['ID'], 'filter' => ['=ACTION_FILE' => self::HANDLER], 'order' => ['ID' => 'ASC']]);
        while ($one = $found->fetch()) {
            $systems[] = (int) $one['ID'];
        }

        return $systems;
    }

    /** @return \Bitrix\Sale\Order|null */
    protected function load(string $orderId)
    {
        return preg_match(self::ID, $orderId) ? \Bitrix\Sale\Order::load((int) $orderId) : null;
    }

    /**
     * The shop whose money an order is, for orders that are named by their ID alone; null: nobody here knows, and any shop will do.
     *
     * Override it where others than this site have keys of the service: whoever has the key of one shop can name any order, and
     * pay its sum to that shop.
     *
     * @param \Bitrix\Sale\Order $order
     */
    protected function shopOf($order): ?int
    {
        return null;
    }

    /** Do something with an order, as it is now (null: it is not there), while no other process marks it. */
    private function alone(string $orderId, callable $work): string
    {
        \Bitrix\Main\Loader::includeModule('sale');
        $named = BitrixPaymentId::parse($orderId);
        $number = $named === null ? $orderId : (string) $named->order;
        $lock = Files::lockOf($this->folder . '/orders', $number);
        $word = Files::locked($lock, true, function () use ($named, $number, $work): string {
            $order = $named === null ? $this->load($number) : \Bitrix\Sale\Order::load($named->order);

            return $named === null || $named->isOfThisInstallation($order) ? $work($order, $named) : self::OTHER_SITE;
        });
        if ($word === null) {
            throw new \RuntimeException('The folder of the payment service\'s client cannot be written.');
        }

        return $word;
    }

    /** The payment of Bitrix that money is for; else the word that says why there is none. */
    private function paymentOf($order, ?BitrixPaymentId $named, int $tiyn, array $payment)
    {
        if ($named === null) {
            if (self::isOfAnEarlierOrder($order, $payment)) {
                return self::NO_SUCH_ORDER;
            }
            $shop = $this->shopOf($order);
            if ($shop !== null && $shop !== ($payment['shop_id'] ?? null)) {
                return self::SELLER_DIFFERS;
            }

            return $this->paymentOfSum($order, $tiyn, $payment) ?? self::AMOUNT_DIFFERS;
        }
        $ours = $order->getPaymentCollection()->getItemById($named->payment);
        if ($ours === null || $ours->isInner() || (string) BitrixPaymentId::of($ours) !== (string) $named) {
            return self::NO_SUCH_ORDER;
        }
        $word = self::misfit($ours, $payment);
        if ($word !== '') {
            return $word;
        }
        $voucher = (string) $ours->getField('PAY_VOUCHER_NUM');
        $isPaidOtherwise = $ours->isPaid() && !in_array($voucher, ['', (string) ($payment['external_id'] ?? '')], true);

        return $isPaidOtherwise ? self::AMOUNT_DIFFERS : $ours;
    }

    /** A site that was put back to a backup, and a copy of one, give the numbers of earlier orders to new ones. */
    private static function isOfAnEarlierOrder($order, array $payment): bool
    {
        $made = is_string($payment['created_at'] ?? null) ? strtotime($payment['created_at']) : false;
        $inserted = $order->getField('DATE_INSERT');

        return $made !== false && $inserted instanceof \Bitrix\Main\Type\DateTime && $made < $inserted->getTimestamp() - self::CLOCKS_DIFFER_S;
    }

    /** The payment of an order by its sum: known by Kaspi's id, else one that nobody paid before one that was paid by hand. */
    private function paymentOfSum($order, int $tiyn, array $payment)
    {
        $free = null;
        foreach ($order->getPaymentCollection() as $one) {
            $voucher = (string) $one->getField('PAY_VOUCHER_NUM');
            $isTenge = in_array($one->getField('CURRENCY'), [null, '', self::CURRENCY], true);
            // The handler's payments are known by name, never by their sum.
            if ($one->isInner() || !$isTenge || self::isThroughKaspi($one) || (int) round($one->getSum() * 100) !== $tiyn) {
                continue;
            }
            if ($voucher !== '' && $voucher === (string) ($payment['external_id'] ?? '')) {
                return $one;
            }
            if ($voucher === '' && ($free === null || ($free->isPaid() && !$one->isPaid()))) {
                $free = $one;
            }
        }

        return $free;
    }

    /** Money came, and it is not for this order as it stands: nothing is marked as paid. */
    private function leave($order, string $word, int $tiyn, array $payment, $ours = null): string
    {
        $shop = $payment['shop_id'] ?? '';
        $what = [
            self::NO_SUCH_ORDER => 'the order has no such payment.',
            self::AMOUNT_DIFFERS => 'no payment of the order is of this sum and still to be paid.',
            self::CURRENCY_DIFFERS => 'the payment of the order is not in tenge.',
            self::SELLER_DIFFERS => "it went to shop $shop, and the rule of the payment system names another one, or none.",
            self::ORDER_CANCELLED => 'the order is cancelled. Refund it, or take the order up again.',
            self::PAID_BEFORE => 'it was marked as paid before. If the buyer paid in another way too, refund one of them.',
        ][$word];
        $this->tell($order, $ours, self::has($tiyn) . $what, self::ids($payment));

        return $word;
    }

    private function leaveWithoutOrder(string $orderId, int $tiyn, array $payment): string
    {
        $number = BitrixPaymentId::parse($orderId)->order ?? (preg_match(self::ID, $orderId) ? (int) $orderId : 0);
        if ($number > 0) {
            $this->people->tell($number, self::has($tiyn) . 'there is no such order.', self::ids($payment));
        }

        return self::NO_SUCH_ORDER;
    }

    /** Money came for a payment that somebody had marked as paid: note it, and let people find out whether it came twice. */
    private function noteBeside($order, $ours, int $tiyn, array $payment): string
    {
        self::insist($ours->setFields(self::facts($payment, 'Y', $tiyn)));

        return $this->leave($order, self::PAID_BEFORE, $tiyn, $payment, $ours);
    }

    private static function has(int $tiyn): string
    {
        return 'Kaspi has ' . Amount::text($tiyn) . ' tenge for this order, and ';
    }

    private static function ids(array $payment): array
    {
        return ['payment' => $payment['id'] ?? null, 'external_id' => $payment['external_id'] ?? null];
    }

    private function tell($order, $ours, string $what, array $facts): void
    {
        $this->people->tell((int) $order->getId(), $what, $facts);
        \Bitrix\Sale\PaySystem\Logger::addError(self::class . ': order ' . $order->getId() . ': ' . $what);
        $reasons = new \Bitrix\Sale\Result();
        $reasons->addWarnings([new \Bitrix\Sale\ResultError($what, 'PAYMENT_SERVICE')]);
        \Bitrix\Sale\EntityMarker::addMarker($order, $ours ?? $order, $reasons);
        ($ours ?? $order)->setField('MARKED', 'Y');
        self::insist($order->save());
    }

    private static function facts(array $payment, string $status, int $keptTiyn): array
    {
        return [
            'PS_STATUS' => $status,
            'PS_STATUS_CODE' => substr((string) ($payment['status'] ?? $payment['state'] ?? ''), 0, 50),
            'PS_STATUS_DESCRIPTION' => 'Kaspi ' . ($payment['external_id'] ?? '') . ', shop ' . ($payment['shop_id'] ?? ''),
            'PS_SUM' => $keptTiyn / 100,
            'PS_CURRENCY' => self::CURRENCY,
            'PS_RESPONSE_DATE' => new \Bitrix\Main\Type\DateTime(),
            'PS_INVOICE_ID' => (string) ($payment['id'] ?? ''),
        ];
    }

    private static function insist($result): void
    {
        if (!$result->isSuccess()) {
            throw new \RuntimeException('Bitrix refused: ' . implode(' ', $result->getErrorMessages()));
        }
    }
}
