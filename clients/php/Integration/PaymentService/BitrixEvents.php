<?php

namespace Integration\PaymentService;

/** What the client does when something happens in Bitrix. The site's init.php calls register(). */
final class BitrixEvents
{
    public static function register(): void
    {
        \Bitrix\Main\EventManager::getInstance()->addEventHandler('sale', 'OnSaleOrderCanceled', [self::class, 'onSaleOrderCanceled']);
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
}
