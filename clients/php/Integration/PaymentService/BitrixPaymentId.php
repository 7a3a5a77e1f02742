<?php

namespace Integration\PaymentService;

/**
 * A payment of Bitrix, as the service knows it: "s1-12345-67" is payment 67 of order 12345 on the site s1.
 *
 * It is the order_id of what the payment system handler asks for. The Idempotency-Key is made of it and of the attempt, so two
 * processes that ask for the same payment send the same request.
 */
final class BitrixPaymentId
{
    const TEXT = '/^([A-Za-z0-9]{1,20})-([1-9]\d{0,9})-([1-9]\d{0,9})$/D';

    /** @var string */
    public $site;
    /** @var int */
    public $order;
    /** @var int */
    public $payment;

    public function __construct(string $site, int $order, int $payment)
    {
        $this->site = $site;
        $this->order = $order;
        $this->payment = $payment;
        if (!preg_match(self::TEXT, (string) $this)) {
            throw new BadRequest('Only a payment of an order that Bitrix has saved can be paid.');
        }
    }

    /** @param \Bitrix\Sale\Payment $payment */
    public static function of($payment): self
    {
        $order = $payment->getOrder();
        $installation = (new SiteSettings())->text('payment_service_site');

        return new self($installation . $order->getSiteId(), (int) $order->getId(), (int) $payment->getId());
    }

    /** The payment that a text names; null when it names none. */
    public static function parse(string $text): ?self
    {
        return preg_match(self::TEXT, $text, $parts) ? new self($parts[1], (int) $parts[2], (int) $parts[3]) : null;
    }

    /**
     * Whether the site is one of this installation; another one that sells for the same shop has a word of its own.
     *
     * @param \Bitrix\Sale\Order|null $order the one of this number here: its site may be gone from Bitrix
     */
    public function isOfThisInstallation($order): bool
    {
        $installation = (new SiteSettings())->text('payment_service_site');
        if ($order !== null && $this->site === $installation . $order->getSiteId()) {
            return true;
        }
        foreach (\Bitrix\Main\SiteTable::getList(['select' => ['LID']])->fetchAll() as $site) {
            if ($this->site === $installation . $site['LID']) {
                return true;
            }
        }

        return false;
    }

    public function __toString(): string
    {
        return "{$this->site}-{$this->order}-{$this->payment}";
    }
}
