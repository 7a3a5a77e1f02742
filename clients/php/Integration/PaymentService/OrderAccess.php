<?php

namespace Integration\PaymentService;

/**
 * The site's orders, as events need them. Every method may be called again for what is done already.
 *
 * An implementation throws anything it likes when the shop's database is away: the event then comes again later.
 */
interface OrderAccess
{
    const DONE = 'done';
    const ALREADY = 'already';
    const NO_SUCH_ORDER = 'no_such_order';
    const AMOUNT_DIFFERS = 'amount_differs';
    const CURRENCY_DIFFERS = 'currency_differs';
    const SELLER_DIFFERS = 'seller_differs';
    const ORDER_CANCELLED = 'order_cancelled';
    /** Somebody had marked it as paid, before Kaspi's money came: the buyer may have paid twice. */
    const PAID_BEFORE = 'paid_before';
    /** It is for an order of another installation, which hears of it as well: nothing is to be done here. */
    const OTHER_SITE = 'other_site';
    /** Words that say: money came, and only people can tell what it is for. */
    const NEEDS_PEOPLE = [
        self::NO_SUCH_ORDER, self::AMOUNT_DIFFERS, self::CURRENCY_DIFFERS, self::SELLER_DIFFERS, self::ORDER_CANCELLED,
        self::PAID_BEFORE,
    ];

    /**
     * Mark an order as paid, if the amount is the one that it costs.
     *
     * @param string $orderId as the site gave it when it asked for the payment
     * @param int $tiyn what was paid
     * @param array $payment as GET /payments/{id} shows it
     * @return string one of the words above
     */
    public function markPaid(string $orderId, int $tiyn, array $payment): string;

    /**
     * Note a refund. The money has gone back already: this must not ask anybody to pay back.
     *
     * @param int $refundedTiyn what went back in all so far
     * @param bool $wholly whether that is everything that was paid
     * @return string one of the words above
     */
    public function markRefunded(string $orderId, int $refundedTiyn, bool $wholly, array $payment): string;
}
