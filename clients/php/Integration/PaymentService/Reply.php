<?php

namespace Integration\PaymentService;

/** What came of one HTTP call. */
final class Reply
{
    /** @var int HTTP status; 0 when no whole answer came */
    public $status = 0;
    /** @var string */
    public $body = '';
    /** @var array<string, string> by lower-case name */
    public $headers = [];
    /** @var string what curl said when no whole answer came; '' when one came */
    public $error = '';
    /** @var bool whether a byte of the request may have left */
    public $sent = true;
    /** @var bool whether the other side refused the connection: surely nothing was sent, and it may be tried at once */
    public $refused = false;
    /** @var string the address that answered */
    public $ip = '';

    /** The answer as JSON; null when it is not an object or a list. */
    public function json(): ?array
    {
        $found = $this->error === '' ? json_decode($this->body, true, 64, JSON_BIGINT_AS_STRING) : null;

        return is_array($found) ? $found : null;
    }

    public function header(string $name): string
    {
        return $this->headers[strtolower($name)] ?? '';
    }
}
