<?php

namespace Integration\PaymentService;

/**
 * Something that the caller must be told.
 *
 * Every way in which the client says no. Catch the one that matters, or PaymentServiceException for all.
 *
 *     PaymentServiceException
 *     ├── NotFound         the service does not know this shop or payment
 *     ├── Inactive         the shop is switched off
 *     ├── Rejected         refused for good: getErrorCode(), and Kaspi's own getProviderCode()
 *     ├── OutcomeUnknown   it may have been done or not: look it up before anybody asks for another one
 *     ├── Unavailable      nothing was sent: the same call may be made again
 *     └── BadRequest       the call, the key or a setting is wrong
 *
 * No message holds a key, a device token, a password or a phone.
 */
class PaymentServiceException extends \RuntimeException
{
    /** @var array What the answer said: code, detail, id, state, provider_code ... */
    private $facts;

    public function __construct(string $message, array $facts = [], ?\Throwable $previous = null)
    {
        parent::__construct($message, 0, $previous);
        $this->facts = $facts;
    }

    /** A stable word such as shop_inactive or payment_rejected; '' when the answer had none. */
    public function getErrorCode(): string
    {
        return $this->text('code');
    }

    /** Kaspi's own code, such as -99000005; '' when it is not from Kaspi. */
    public function getProviderCode(): string
    {
        return $this->text('provider_code');
    }

    /** The service's id of the payment, for getPayment(); '' when it is not known. */
    public function getPaymentId(): string
    {
        return $this->text('id');
    }

    /** The id under which the service's own log has this request; '' when it never answered. */
    public function getRequestId(): string
    {
        return $this->text('request_id');
    }

    /** The HTTP status of the answer; 0 when there was none. */
    public function getHttpStatus(): int
    {
        return (int) ($this->facts['status'] ?? 0);
    }

    /** Everything that the answer said. */
    public function getFacts(): array
    {
        return $this->facts;
    }

    private function text(string $name): string
    {
        $value = $this->facts[$name] ?? '';

        return is_scalar($value) ? (string) $value : '';
    }
}
