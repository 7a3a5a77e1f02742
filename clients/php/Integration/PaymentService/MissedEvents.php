<?php

namespace Integration\PaymentService;

/**
 * Marks what was paid and what no event told: events that something before the site swallowed, a webhook that was off, a
 * database of the shop that was put back to a backup.
 *
 * Only payments of the payment system handler: an order that is named otherwise may need the site's own OrderAccess.
 */
final class MissedEvents
{
    const DAYS = 3;

    private $client;
    private $orders;
    private $taken;

    public function __construct(Client $client, BitrixOrders $orders, TakenPayments $taken)
    {
        $this->client = $client;
        $this->orders = $orders;
        $this->taken = $taken;
    }

    /** As this site has set it. */
    public static function ofSite(): self
    {
        $settings = new SiteSettings();
        $settings->required('payment_service_url');

        return new self($settings->client(), new BitrixOrders(), new TakenPayments((string) $settings->folder()));
    }

    /**
     * @param int $since seconds: what was made since then
     * @return array<string, int> how many payments, by the word of OrderAccess or TakenPayments
     * @throws PaymentServiceException when the service cannot be asked
     */
    public function take(int $since): array
    {
        $words = [];
        foreach ($this->client->findPaid($since) as $payment) {
            $named = BitrixPaymentId::parse((string) ($payment['order_id'] ?? ''));
            if ($named === null) {
                continue;
            }
            $word = $this->taken->take((string) $payment['id'], '', (int) $payment['version'], function () use ($named, $payment): string {
                return Marking::apply($this->orders, (string) $named, $payment);
            });
            if ($word === null) {
                throw new Unavailable('The folder of the payment service\'s client cannot be written.');
            }
            $words[$word] = ($words[$word] ?? 0) + 1;
        }

        return $words;
    }
}
