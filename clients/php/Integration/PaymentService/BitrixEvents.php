<?php

namespace Integration\PaymentService;

/** What the client does when something happens in Bitrix. The site's init.php calls register(). */
final class BitrixEvents
{
    public static function register(): void
    {
        $events = \Bitrix\Main\EventManager::getInstance();
        $events->addEventHandler('sale', 'OnSaleOrderCanceled', [self::class, 'onSaleOrderCanceled']);
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
        $settings = new SiteSettings();
        $people = new People(new Log($settings->folder()));
        foreach ($order->getPaymentCollection() as $payment) {
            if (!BitrixOrders::isThroughKaspi($payment)) {
                continue;
            }
            try {
                $standing = (new Checkout($settings->client(), (string) $settings->folder()))->look(BitrixPaymentId::of($payment));
            } catch (\Throwable $problem) {
                $standing = ['step' => Checkout::AWAY, 'payment' => null];
            }
            $what = [
                Checkout::WAITING => 'The order was cancelled, and its invoice at Kaspi can still be paid. Cancel it in the seller\'s Kaspi Pay, or have the buyer decline it.',
                Checkout::PAID => 'The order was cancelled, and Kaspi has its money. Refund it.',
                Checkout::AWAY => 'The order was cancelled, and the payment service could not be asked whether its invoice is open. Look it up.',
            ][$standing['step']] ?? null;
            if ($what !== null) {
                $people->tell((int) $order->getId(), $what, ['payment' => $standing['payment']['id'] ?? null]);
            }
        }
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
