<?php

namespace Integration\PaymentService;

/** What the client does when something happens in Bitrix. The site's init.php calls register(). */
final class BitrixEvents
{
    public static function register(): void
    {
        $events = \Bitrix\Main\EventManager::getInstance();
        $events->addEventHandler('sale', 'OnSaleOrderCanceled', [self::class, 'onSaleOrderCanceled']);
        $events->addEventHandler('sale', 'OnBeforeSalePaymentEntityDeleted', [self::class, 'onBeforeSalePaymentEntityDeleted']);
        $events->addEventHandler('sale', 'OnSalePaymentEntitySaved', [self::class, 'onSalePaymentEntitySaved']);
        // An event of the old kind: its parameters come one by one, and by reference.
        $events->addEventHandlerCompatible('main', 'OnAdminContextMenuShow', [self::class, 'onAdminContextMenuShow']);
    }

    /** An order was cancelled whose invoice can still be paid, or was paid: people are told. Nothing is refunded by itself. */
    public static function onSaleOrderCanceled(\Bitrix\Main\Event $event): void
    {
        $order = $event->getParameter('ENTITY');
        if ($order === null || !$order->isCanceled()) {
            return;
        }
        foreach ($order->getPaymentCollection() as $payment) {
            if (BitrixOrders::isThroughKaspi($payment)) {
                self::tell('The order was cancelled', $payment, self::look($payment));
            }
        }
    }

    /**
     * A payment whose invoice can still be paid, or was paid, is not deleted: one that is made in its place would be asked for
     * as well, and its money would fit nothing.
     *
     * @return \Bitrix\Main\EventResult|null
     */
    public static function onBeforeSalePaymentEntityDeleted(\Bitrix\Main\Event $event)
    {
        $payment = $event->getParameter('ENTITY');
        // Also without a number of the service: the answer to the invoice may have been lost.
        if ($payment === null || (int) $payment->getId() <= 0 || !(BitrixOrders::isThroughKaspi($payment) || self::wasAskedFor($payment))) {
            return null;
        }
        $standing = self::look($payment);
        // Also when it is refused: Bitrix deletes an order whose payment is not to be deleted.
        self::tell('A payment was to be deleted', $payment, $standing);
        if (in_array($standing['step'], [Checkout::WAITING, Checkout::PAID], true)) {
            $why = new \Bitrix\Sale\ResultError(self::sentence('A payment cannot be deleted', $standing), 'PAYMENT_SERVICE');

            return new \Bitrix\Main\EventResult(\Bitrix\Main\EventResult::ERROR, $why, 'sale');
        }

        return null;
    }

    /** A payment got another sum or payment system, or was marked as paid by somebody, while its invoice can still be paid. */
    public static function onSalePaymentEntitySaved(\Bitrix\Main\Event $event): void
    {
        $payment = $event->getParameter('ENTITY');
        $before = $event->getParameter('VALUES') ?? [];
        // What the client itself saves has the time of an answer.
        if ($payment === null || array_key_exists('PS_RESPONSE_DATE', $before) || !self::wasAskedFor($payment)) {
            return;
        }
        $what = [];
        if (array_key_exists('PAID', $before) && $payment->isPaid()) {
            $what[] = 'marked as paid by hand';
        }
        if (array_key_exists('SUM', $before)) {
            $what[] = 'given another sum';
        }
        if (array_key_exists('PAY_SYSTEM_ID', $before)) {
            $what[] = 'given another payment system';
        }
        $standing = $what === [] ? null : self::look($payment);
        // What is paid already is told when it is marked.
        if ($standing !== null && $standing['step'] !== Checkout::PAID) {
            self::tell('The payment was ' . implode(' and ', $what), $payment, $standing);
        }
    }

    /** Whether the handler has shown an invoice of it; also when it belongs to another payment system now. */
    private static function wasAskedFor($payment): bool
    {
        return (string) $payment->getField('PS_INVOICE_ID') !== ''
            && (BitrixOrders::isThroughKaspi($payment) || strncmp((string) $payment->getField('PS_STATUS_DESCRIPTION'), 'Kaspi ', 6) === 0);
    }

    private static function look($payment): array
    {
        try {
            $settings = new SiteSettings();

            return (new Checkout($settings->client(), (string) $settings->folder()))->look(BitrixPaymentId::of($payment));
        } catch (\Throwable $problem) {
            return ['step' => Checkout::AWAY, 'payment' => null];
        }
    }

    private static function tell(string $what, $payment, array $standing): void
    {
        $sentence = self::sentence($what, $standing);
        if ($sentence !== '') {
            $people = new People(new Log((new SiteSettings())->folder()));
            $people->tell((int) $payment->getOrder()->getId(), $sentence, ['payment' => $standing['payment']['id'] ?? null]);
        }
    }

    /** '' when nothing of it is open or paid. */
    private static function sentence(string $what, array $standing): string
    {
        $amount = $standing['payment']['amount'] ?? null;
        $invoice = 'its invoice' . ($amount === null ? '' : ' of ' . Amount::text(Amount::tiyn($amount)) . ' tenge') . ' at Kaspi';
        $parts = [
            Checkout::WAITING => "$invoice can still be paid. Cancel it in the seller's Kaspi Pay, or have the buyer decline it.",
            Checkout::PAID => 'Kaspi has its money. Refund it.',
            Checkout::AWAY => 'the payment service could not be asked whether its invoice is open. Look it up.',
        ];

        return isset($parts[$standing['step']]) ? "$what, and {$parts[$standing['step']]}" : '';
    }

    /**
     * A button in the order form for each payment of which Kaspi has money.
     *
     * @param array $items the buttons above an admin page
     */
    public static function onAdminContextMenuShow(array &$items): void
    {
        if ($GLOBALS['APPLICATION']->GetCurPage() !== '/bitrix/admin/sale_order_view.php' || (int) ($_GET['ID'] ?? 0) <= 0) {
            return;
        }
        try {
            \Bitrix\Main\Loader::includeModule('sale');
            $order = \Bitrix\Sale\Order::load((int) $_GET['ID']);
            foreach ($order === null ? [] : $order->getPaymentCollection() as $payment) {
                if ($payment->isPaid() && BitrixOrders::isThroughKaspi($payment)) {
                    $items[] = [
                        'TEXT' => \Bitrix\Main\Localization\Loc::getMessage('SALE_HPS_CVETYKASPI_REFUND_BUTTON') . ' ' . $payment->getField('ACCOUNT_NUMBER'),
                        'LINK' => '/local/payment-refund.php?PAYMENT_ID=' . (int) $payment->getId(),
                    ];
                }
            }
        } catch (\Throwable $problem) {
            // The order form is shown without the button.
            (new Log((new SiteSettings())->folder()))->error('bitrix.no_button', ['because' => $problem->getMessage()]);
        }
    }
}
