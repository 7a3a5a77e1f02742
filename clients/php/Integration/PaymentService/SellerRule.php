<?php

namespace Integration\PaymentService;

/**
 * Whose money a payment of Bitrix is: the rule in the settings of the payment system says, or nobody is paid.
 *
 * There is no default and no second guess: without a rule, without a value, with a value that is no shop, or with goods that
 * are another seller's, an exception with a sentence for the administrator is thrown, and nothing is sent.
 */
final class SellerRule
{
    /** The names of the settings, as .description.php has them. */
    const RULE = 'CVETYKASPI_SELLER';
    const SHOP = 'CVETYKASPI_SHOP';
    const PROPERTY = 'CVETYKASPI_PROPERTY';
    const GOODS = 'CVETYKASPI_GOODS';

    /** What the setting CVETYKASPI_SELLER may say. */
    const FIXED = 'SHOP';
    const BY_PROPERTY = 'PROPERTY';
    const BY_XML_ID = 'XML_ID';
    /** Said in CVETYKASPI_GOODS: goods carry no seller, and no order has goods of two. */
    const GOODS_SAY_NOTHING = '-';

    /**
     * The shop of a payment.
     *
     * @param \Bitrix\Sale\Payment $payment
     * @throws BadRequest when it is not known for sure
     */
    public static function shopOf($payment): int
    {
        $system = $payment->getPaySystem();
        $settings = $system === null ? [] : $system->getParamsBusValue($payment);
        $rule = self::text($settings, self::RULE);
        switch ($rule) {
            case self::FIXED:
                $shop = self::fixed(self::text($settings, self::SHOP), (int) $system->getField('ID'));
                break;
            case self::BY_PROPERTY:
                $code = self::text($settings, self::PROPERTY);
                $shop = self::named($payment->getOrder()->getPropertyCollection(), $code, "the property '$code' of the order");
                break;
            case self::BY_XML_ID:
                $xmlId = (string) $payment->getField('XML_ID');
                $shop = self::shop(preg_match('/^shop-(\d+)$/D', $xmlId, $found) ? $found[1] : '', 'the XML_ID of the payment');
                break;
            default:
                throw new BadRequest('The payment system has no rule that says whose money a payment is.');
        }
        self::checkGoods($payment, $shop, $rule, self::text($settings, self::GOODS));

        return $shop;
    }

    private static function text(array $settings, string $name): string
    {
        return is_scalar($settings[$name] ?? null) ? trim((string) $settings[$name]) : '';
    }

    private static function shop(string $said, string $where): int
    {
        if (!preg_match('/^[1-9]\d{0,9}$/D', $said)) {
            throw new BadRequest("There is no shop in $where.");
        }

        return (int) $said;
    }

    /**
     * "121038", or "3:121038" for payment system 3.
     *
     * Bitrix hands an empty setting of one payment system the value of another one. So with several payment systems of this
     * handler the value must name its own.
     */
    private static function fixed(string $said, int $systemId): int
    {
        $parts = explode(':', $said);
        if (count($parts) === 2 && $parts[0] === (string) $systemId) {
            return self::shop($parts[1], 'the setting of the fixed shop');
        }
        if (count($parts) === 2) {
            throw new BadRequest("The fixed shop is that of payment system {$parts[0]}, and this one is $systemId.");
        }
        if (BitrixOrders::systems() !== [$systemId]) {
            throw new BadRequest("Several payment systems are paid through Kaspi: write the fixed shop of this one as $systemId:SHOP.");
        }

        return self::shop($said, 'the setting of the fixed shop');
    }

    /** @param iterable $properties of an order or of goods */
    private static function named($properties, string $code, string $where): int
    {
        foreach ($code === '' ? [] : $properties as $property) {
            if ($property->getField('CODE') === $code) {
                $value = $property->getField('VALUE');

                return self::shop(is_scalar($value) ? trim((string) $value) : '', $where);
            }
        }
        throw new BadRequest("There is no shop in $where.");
    }

    /** An order with goods of two sellers has a payment for each of them, or is not paid at all. */
    private static function checkGoods($payment, int $shop, string $rule, string $code): void
    {
        if ($code === self::GOODS_SAY_NOTHING) {
            return;
        }
        if ($code === '') {
            throw new BadRequest('The settings do not say which property of the goods names their shop.');
        }
        $order = $payment->getOrder();
        $tiyn = [];
        foreach ($order->getBasket() as $item) {
            $seller = self::named($item->getPropertyCollection(), $code, "the property $code of some goods of the order");
            $tiyn[$seller] = ($tiyn[$seller] ?? 0) + (int) round($item->getFinalPrice() * 100);
        }
        if (!isset($tiyn[$shop])) {
            throw new BadRequest("The order has no goods of shop $shop.");
        }
        if (count($tiyn) === 1) {
            return;
        }
        if ($rule !== self::BY_XML_ID) {
            throw new BadRequest('The order has goods of several sellers, and one payment cannot be of all of them.');
        }
        $sum = (int) round($payment->getSum() * 100);
        if ($sum !== $tiyn[$shop] && $sum !== $tiyn[$shop] + (int) round($order->getDeliveryPrice() * 100)) {
            throw new BadRequest("The payment is not what the goods of shop $shop cost, with or without the delivery.");
        }
    }
}
