<?php

namespace Integration\PaymentService;

/**
 * The payment service, for a site.
 *
 *     $client = new Client('https://payments.example.kz', $apiKey, ['folder' => '/home/bitrix/kaspi_payment_service']);
 *     $payment = $client->createPayment(['shop_id' => 121038, 'order_id' => '12345', 'amount' => 17500, 'phone' => '7701...']);
 *     $payment = $client->waitForPayment($payment['id']);
 *
 * A method returns what the service answered, or throws a PaymentServiceException. Money moves at most once: every call that
 * moves money carries an Idempotency-Key made of the order and the operation, and is repeated by itself only when the
 * connection was refused or the service says that nothing was sent. After OutcomeUnknown or Unavailable the same call,
 * with the same arguments, may be made again at any time: the service knows it by its key, and its answer then has
 * replayed => true.
 */
class Client
{
    const USER_AGENT = 'payment-service-php/1';
    /** Seconds before the second and the third try of what was surely not sent. */
    const PAUSES_S = [0.2, 1.0];
    /** Codes with which the service says that nothing was sent. */
    const NOTHING_WAS_SENT = [
        'not_sent', 'draining', 'sending_held', 'database_unavailable', 'service_unavailable', 'provider_unavailable',
        'rate_limited', 'too_many_connections', 'request_timeout',
    ];
    /** How many kept reports one page sends along at most; "console.php replay" sends all. */
    const REPLAYED_AT_ONCE = 20;
    /** Payments in one answer; the service's own limit. */
    const AT_MOST = 500;

    private $url;
    private $key;
    private $http;
    private $log;
    private $clock;
    private $pausesS;
    private $pause;
    private $journal;
    private $configs;

    /**
     * @param string|null $apiUrl the service's address, with or without /api at its end; https, except on this machine. Left out:
     *     address, key and options are those of the site (SiteSettings)
     * @param string|null $apiKey
     * @param array $options folder (where log, journal and cache are kept: outside of what the web server shows),
     *     cache_time (seconds), shops_file, default_bin_for_every_shop, default_device_token, ca_file,
     *     connect_timeout_s (3), total_timeout_s (10); and for tests http, clock, pauses_s
     * @throws BadRequest when address or key cannot be used
     */
    public function __construct($apiUrl = null, $apiKey = null, array $options = [])
    {
        if ($apiUrl === null) {
            [$apiUrl, $apiKey, $ofSite] = (new SiteSettings())->ofClient();
            $options += $ofSite;
        }
        $this->url = self::checkedUrl((string) $apiUrl);
        $this->key = (string) $apiKey;
        if (!preg_match('/^[!-~]*$/D', $this->key)) {
            throw new BadRequest('The API key holds characters that no key has: copy it anew.');
        }
        $folder = array_key_exists('folder', $options) ? $options['folder'] : (new SiteSettings())->folder();
        $this->http = $options['http'] ?? new Http(
            (float) ($options['connect_timeout_s'] ?? 3),
            (float) ($options['total_timeout_s'] ?? 10),
            ['ca_file' => (string) ($options['ca_file'] ?? '')]
        );
        $this->clock = $options['clock'] ?? 'time';
        $this->pausesS = $options['pauses_s'] ?? self::PAUSES_S;
        $this->log = new Log($folder);
        $this->log->hide($this->key, (string) ($options['default_device_token'] ?? ''));
        $this->pause = new Pause($folder, $this->clock);
        $this->journal = $folder === null ? null : new Journal($folder, $this->clock);
        $this->configs = new ShopConfigs(
            function (int $shopId, string $etag): Reply {
                return $this->askConfig($shopId, $etag);
            },
            new ConfigCache($folder),
            $this->pause,
            $this->log,
            $this->clock,
            $this->key,
            $options
        );
    }

    // --- routing and reports, for a site that calls Kaspi itself

    /**
     * The routing of a shop, by the order of trust that ShopConfigs describes.
     *
     * @param int|string $shopId
     * @return array shop_id, organization_bin, device_token, is_active, provider, name ..., trust
     * @throws NotFound|Inactive|Unavailable|BadRequest
     */
    public function getPaymentConfig($shopId): array
    {
        return $this->configs->of(self::checkedShop($shopId));
    }

    /** Kaspi called this shop's device or trade point wrong: ask the service before the routing is used again. */
    public function doubtPaymentConfig($shopId): void
    {
        $this->configs->doubt(self::checkedShop($shopId));
    }

    /**
     * Report an operation that the site made itself: once, however often it has to be sent.
     *
     * @param array $logData shop_id, operation_type, and what is known of organization_bin, external_id, amount (whole
     *     tiyn), status, error_message, provider, report_id
     * @return array|null the row; null when the service could not be reached and the journal keeps the report
     * @throws Unavailable when there is no journal to keep it either
     * @throws BadRequest|NotFound when the service refuses it
     */
    public function createPaymentLog(array $logData): ?array
    {
        $report = self::checkedReport($logData);
        $id = $report['report_id'] ?? Journal::newId();
        unset($report['report_id']);
        if ($this->journal !== null) {
            $this->journal->keep($id, $report);
        }
        if ($this->journal !== null && $this->pause->isOn()) {
            $this->log->count('report.kept');

            return null;
        }
        try {
            $row = $this->sendReport($id, $report);
        } catch (Unavailable $down) {
            $this->pause->begin();
            $this->log->count('report.kept');
            $this->log->error('report.kept', ['report_id' => $id, 'because' => $down->getMessage()]);
            if ($this->journal === null) {
                throw $down;
            }

            return null;
        }
        $this->replayJournal(self::REPLAYED_AT_ONCE);

        return $row;
    }

    /**
     * Report a status that the site saw.
     *
     * @return array|null as createPaymentLog
     */
    public function updatePaymentStatus($shopId, $externalId, $status, $errorMessage = null): ?array
    {
        return $this->createPaymentLog([
            'shop_id' => $shopId,
            'operation_type' => 'status',
            'external_id' => self::checkedExternalId($externalId),
            'status' => (string) $status,
            'error_message' => $errorMessage === null ? null : (string) $errorMessage,
        ]);
    }

    /**
     * Keep a report of an operation that is about to begin, so that a page that dies in it leaves a trace.
     *
     * @return string the id under which to report how it ended; '' when there is no journal
     */
    public function beginOperation(array $report): string
    {
        if ($this->journal === null) {
            return '';
        }
        $id = Journal::newId();
        $this->journal->keep($id, self::checkedReport($report), true);

        return $id;
    }

    /**
     * Send what the journal keeps, oldest first, until the service cannot be reached again.
     *
     * @param int|null $atMost how many; null for all
     * @return int how many the service took
     */
    public function replayJournal(?int $atMost = null): int
    {
        if ($this->journal === null || $this->journal->size() === 0) {
            return 0;
        }
        $left = $atMost ?? PHP_INT_MAX;
        $taken = 0;
        $this->journal->replay(function (string $id, array $report) use (&$left, &$taken): bool {
            if ($left-- <= 0) {
                return false;
            }
            try {
                $this->sendReport($id, $report);
                ++$taken;
            } catch (PaymentServiceException $problem) {
                if (self::isRefusedForGood($problem)) {
                    return true;  // it is in the folder of the refused, and the next one may be better
                }
                $this->log->error('journal.stopped', ['because' => $problem->getMessage()]);

                return false;
            }

            return true;
        });
        if ($taken > 0) {
            $this->log->info('journal.replayed', ['reports' => $taken]);
        }

        return $taken;
    }

    /** Reports that the service does not have yet; null without a folder. */
    public function journal(): ?Journal
    {
        return $this->journal;
    }

    // --- the whole service

    /**
     * Invoice a phone.
     *
     * @param array $payment shop_id, order_id, amount (tenge), phone; message and metadata if wanted; attempt (1) when the
     *     same order is to be paid anew, after a payment of it failed, was cancelled or was paid back. The same attempt
     *     answers with the same payment, which stays paid when it was paid back: see refunded_amount
     * @throws PaymentServiceException one of its kinds
     */
    public function createPayment(array $payment): array
    {
        if (($payment['phone'] ?? '') === '') {
            throw new BadRequest('A payment by invoice needs a phone.');
        }

        return $this->make('create', $payment, ['phone' => (string) $payment['phone']]);
    }

    /** Make a payment link; as createPayment, without a phone. The answer has payment_link, expire_date and payment_id. */
    public function createPaymentLink(array $payment): array
    {
        return $this->make('create-link', $payment, []);
    }

    /** Where a payment stands, by Kaspi's id; Kaspi is asked unless it has ended for good. */
    public function getPaymentStatus($externalId): array
    {
        $id = self::checkedExternalId($externalId);

        return $this->read('/payments/kaspi/status/' . $id, [], ['external_id' => $id]);
    }

    /**
     * Pay back an amount, by the account that the payment was made with.
     *
     * @param int|float|string $amount tenge; for everything that is left there is refundAll()
     * @param array $options attempt (1): another number means another refund, also of the same amount
     */
    public function refund($shopId, $externalId, $amount = null, array $options = []): array
    {
        if ($amount === null) {
            throw new BadRequest('A refund needs its amount in tenge; refundAll() pays back everything that is left.');
        }
        $tiyn = Amount::tiyn($amount);

        return $this->payBack($shopId, $externalId, ['amount' => Amount::text($tiyn)], $tiyn, $options);
    }

    /**
     * Pay back everything that is left of a payment.
     *
     * @param array $options attempt (1)
     */
    public function refundAll($shopId, $externalId, array $options = []): array
    {
        return $this->payBack($shopId, $externalId, ['full' => true], 'all', $options);
    }

    /**
     * One payment by the service's id, with its refunds and its history, as the service knows it.
     *
     * @param float $waitS how long the service may wait for a change, in seconds; less than total_timeout_s
     */
    public function getPayment($id, float $waitS = 0.0): array
    {
        return $this->read('/payments/' . rawurlencode((string) $id), $waitS > 0 ? ['wait' => $waitS] : [], ['id' => (string) $id]);
    }

    /**
     * The payments of an order, newest first: what became of a call whose answer was lost.
     *
     * @param int|string|null $shopId null for those of every shop that the key may see
     */
    public function findPayments($shopId, $orderId): array
    {
        $shop = $shopId === null ? [] : ['shop_id' => self::checkedShop($shopId)];
        $found = $this->read('/payments', $shop + ['order_id' => (string) $orderId, 'limit' => self::AT_MOST]);
        $items = $found['items'] ?? null;
        foreach (is_array($items) ? $items : [null] as $one) {
            if (($one['order_id'] ?? null) !== (string) $orderId) {
                throw new Unavailable("Something else answered in the payment service's place.");
            }
        }

        return $items;
    }

    /**
     * What was paid of all that was made since a time, in the shops that the key may see, newest first.
     *
     * @param int $since seconds
     * @return \Generator<array> payments as GET /payments shows them
     */
    public function findPaid(int $since): \Generator
    {
        $query = ['state' => 'paid', 'since' => gmdate('Y-m-d\TH:i:s\Z', $since), 'limit' => self::AT_MOST];
        do {
            $found = $this->read('/payments', $query);
            foreach (is_array($found['items'] ?? null) ? $found['items'] : [null] as $one) {
                if (($one['state'] ?? null) !== 'paid') {
                    throw new Unavailable("Something else answered in the payment service's place.");
                }
                yield $one;
            }
            $query['cursor'] = $found['next_cursor'] ?? null;
        } while ($query['cursor'] !== null);
    }

    /** The link of a payment as a QR code: the bytes of a PNG. */
    public function getPaymentQr($id): string
    {
        $reply = $this->request('GET', '/payments/' . rawurlencode((string) $id) . '/qr.png');
        if ($reply->status === 200 && strncmp($reply->body, "\x89PNG", 4) === 0) {
            return $reply->body;
        }
        throw $this->problemOf($reply);
    }

    /**
     * Wait until a payment is paid, failed or cancelled.
     *
     * @param float $seconds how long at most
     * @return array the payment as it stands then, ended or not
     */
    public function waitForPayment($id, float $seconds = 120.0, float $everyS = 2.0): array
    {
        $giveUpAt = microtime(true) + $seconds;
        while (true) {
            try {
                $payment = $this->getPayment($id);
                if (in_array($payment['state'] ?? '', ['paid', 'failed', 'cancelled'], true) || microtime(true) >= $giveUpAt) {
                    return $payment;
                }
            } catch (Unavailable $down) {
                if (microtime(true) >= $giveUpAt) {
                    throw $down;
                }
            }
            usleep((int) ($everyS * 1000000));
        }
    }

    /** Whether the service answers. */
    public function healthCheck(): bool
    {
        $reply = $this->request('GET', '/api/health');
        $lives = $reply->status === 200 && ($reply->json()['status'] ?? '') === 'ok';
        if ($lives) {
            $this->pause->end();
        }

        return $lives;
    }

    /**
     * The Idempotency-Key of an operation: "bx1-" and 48 hexadecimal digits.
     *
     * They are the first of SHA-256 over the operation, the shop, what it is about and the attempt, each on a line:
     * create, shop, order, attempt; create-link, shop, order, attempt; refund, shop, external id, tiyn or "all", attempt.
     *
     * @param array<int|string> $parts
     * @param int|string $attempt
     */
    public static function idempotencyKey(array $parts, $attempt): string
    {
        foreach (array_merge($parts, [$attempt]) as $part) {
            if (!is_scalar($part) || strpbrk((string) $part, "\r\n") !== false) {
                throw new BadRequest('An order, and the number of an attempt, are texts of one line.');
            }
        }

        return 'bx1-' . substr(hash('sha256', implode("\n", array_merge(['payment-service'], $parts, [$attempt]))), 0, 48);
    }

    // --- inside

    /** @param int|string $keyPart tiyn or "all" */
    private function payBack($shopId, $externalId, array $howMuch, $keyPart, array $options): array
    {
        $shop = self::checkedShop($shopId);
        $id = self::checkedExternalId($externalId);
        $key = self::idempotencyKey(['refund', $shop, $id, $keyPart], $options['attempt'] ?? 1);

        return $this->moveMoney('refund', ['shop_id' => $shop, 'external_id' => $id] + $howMuch, $key);
    }

    private function make(string $operation, array $payment, array $body): array
    {
        $shop = self::checkedShop($payment['shop_id'] ?? null);
        $order = trim((string) ($payment['order_id'] ?? ''));
        if ($order === '') {
            throw new BadRequest('A payment needs the order_id that it is for: its Idempotency-Key is made of it.');
        }
        $body += ['shop_id' => $shop, 'order_id' => $order, 'amount' => Amount::text(Amount::tiyn($payment['amount'] ?? null))];
        if (($payment['message'] ?? '') !== '') {
            $body['message'] = (string) $payment['message'];
        }
        if (($payment['metadata'] ?? []) !== []) {
            $body['metadata'] = array_map('strval', $payment['metadata']);
        }

        return $this->moveMoney($operation, $body, self::idempotencyKey([$operation, $shop, $order], $payment['attempt'] ?? 1));
    }

    private function moveMoney(string $operation, array $body, string $idempotencyKey): array
    {
        $mayAgain = function (Reply $reply): bool {
            return $reply->refused || ($reply->status === 503 && ($reply->json()['code'] ?? '') === 'not_sent');
        };
        $headers = $this->headers(true) + ['Idempotency-Key' => $idempotencyKey];
        $reply = $this->http->sendAgainWhile(
            $mayAgain,
            $this->pausesS,
            'POST',
            $this->url . '/payments/kaspi/' . $operation,
            $headers,
            Http::encode($body)
        );
        $this->debugReply($operation, $reply);
        $answer = $reply->json();
        $facts = ['shop_id' => $body['shop_id'], 'order_id' => $body['order_id'] ?? null, 'external_id' => $body['external_id'] ?? null];
        if ($reply->status === 200 && self::isAnswerTo($body, $answer)) {
            $this->log->info($operation, $facts + ['id' => $answer['id'] ?? null, 'state' => $answer['state']]);
            $this->log->count($operation . '.' . $answer['state']);

            return $reply->header('Idempotency-Replayed') === 'true' ? $answer + ['replayed' => true] : $answer;
        }
        $problem = $this->problemOf($reply, true);
        $kind = strtolower(substr((string) strrchr(get_class($problem), '\\'), 1));
        $this->log->error($operation, $facts + ['problem' => $kind, 'code' => $problem->getErrorCode(), 'detail' => $problem->getMessage()]);
        $this->log->count($operation . '.' . $kind);
        throw $problem;
    }

    /** Whether an answer is of what was asked: a crossed or cached one must not pass for ours. */
    private static function isAnswerTo(array $body, ?array $answer): bool
    {
        return is_string($answer['state'] ?? null) && ($answer['shop_id'] ?? null) === $body['shop_id']
            && (!isset($body['order_id']) || ($answer['order_id'] ?? null) === $body['order_id'])
            && (!isset($body['external_id']) || ($answer['external_id'] ?? null) === $body['external_id']);
    }

    /** @param array<string, string> $about what the answer has to name: a crossed or cached one must not pass for ours */
    private function read(string $path, array $query = [], array $about = []): array
    {
        $reply = $this->request('GET', $path . ($query === [] ? '' : '?' . http_build_query($query)));
        $answer = $reply->json();
        if ($reply->status !== 200 || $answer === null) {
            throw $this->problemOf($reply);
        }
        foreach ($about as $name => $value) {
            if (!is_scalar($answer[$name] ?? null) || strcasecmp((string) $answer[$name], $value) !== 0) {
                throw new Unavailable("Something else answered in the payment service's place.");
            }
        }

        return $answer;
    }

    private function askConfig(int $shopId, string $etag): Reply
    {
        $reply = $this->request('GET', '/api/payment/config?shop_id=' . $shopId, null, $etag === '' ? [] : ['If-None-Match' => $etag]);
        if (($reply->status === 200 && $reply->json() !== null) || $reply->status === 304) {
            return $reply;
        }
        throw $this->problemOf($reply);
    }

    private function sendReport(string $id, array $report): array
    {
        $body = ['report_id' => $id] + $report;
        if (self::isStatusAlone($report)) {
            // Here the service also looks at the payment at once.
            unset($body['operation_type']);
            $reply = $this->request('PATCH', '/api/payment/status', $body);
        } else {
            $reply = $this->request('POST', '/api/payment/log', $body);
        }
        $row = $reply->json();
        if ($reply->status === 200 && isset($row['id'])) {
            if ($this->journal !== null) {
                $this->journal->drop($id);
            }
            $this->pause->end();
            $this->log->count('report.taken');
            if (!empty($row['warnings'])) {
                $this->log->error('report.partly_kept', ['id' => $row['id'], 'warnings' => implode(' | ', (array) $row['warnings'])]);
                $this->log->count('report.partly_kept');
            }

            return $row;
        }
        $problem = $this->problemOf($reply);
        if (self::isRefusedForGood($problem)) {
            $this->log->error('report.refused', ['report_id' => $id, 'detail' => $problem->getMessage()]);
            $this->log->count('report.refused');
            if ($this->journal !== null) {
                $this->journal->refuse($id, $problem->getMessage());
            }
        }
        throw $problem;
    }

    /** Whether the service will never take this report. A wrong key is no such case: people will set the right one. */
    private static function isRefusedForGood(PaymentServiceException $problem): bool
    {
        return !$problem instanceof Unavailable && in_array($problem->getHttpStatus(), [400, 404, 413, 422], true);
    }

    private static function isStatusAlone(array $report): bool
    {
        return $report['operation_type'] === 'status' && isset($report['external_id'], $report['status'])
            && !isset($report['organization_bin']) && !isset($report['amount']) && !isset($report['provider']);
    }

    private function request(string $method, string $path, ?array $body = null, array $headers = []): Reply
    {
        $reply = $this->http->send(
            $method,
            $this->url . $path,
            $this->headers($body !== null) + $headers,
            $body === null ? null : Http::encode($body)
        );
        $this->debugReply($method . ' ' . strtok($path, '?'), $reply);

        return $reply;
    }

    private function headers(bool $withBody): array
    {
        $headers = ['Accept' => 'application/json', 'User-Agent' => self::USER_AGENT];
        if ($withBody) {
            $headers['Content-Type'] = 'application/json';
        }

        return $this->key === '' ? $headers : $headers + ['Authorization' => 'Bearer ' . $this->key];
    }

    /** What an answer that is no success means. Whoever moved money is told when its outcome is not known. */
    private function problemOf(Reply $reply, bool $movedMoney = false): PaymentServiceException
    {
        if ($reply->error !== '') {
            if ($movedMoney && $reply->sent) {
                return new OutcomeUnknown("The answer of the payment service was lost: {$reply->error}. It may have been done or not.");
            }

            return new Unavailable("The payment service cannot be reached: {$reply->error}." . ($movedMoney ? ' Nothing was sent.' : ''));
        }
        $facts = $reply->json() ?? [];
        $facts = ['status' => $reply->status] + $facts;
        $code = is_string($facts['code'] ?? null) ? $facts['code'] : '';
        $detail = is_string($facts['detail'] ?? null) ? $facts['detail'] : '';
        if ($reply->status === 202 && $movedMoney) {
            return new OutcomeUnknown($detail ?: 'It is not known whether this was done.', $facts);
        }
        if ($code === '' || $detail === '') {
            // Not the service's own words: something stands between us, and nobody knows what it let through.
            $said = "Something answered HTTP {$reply->status} in the payment service's place.";

            // Its facts are not told: an id in it may be that of another payment.
            $facts = ['status' => $reply->status];

            return $movedMoney ? new OutcomeUnknown($said . ' It may have been done or not.', $facts) : new Unavailable($said, $facts);
        }
        switch (true) {
            case in_array($code, self::NOTHING_WAS_SENT, true):
                return new Unavailable($detail, $facts);
            case $code === 'shop_inactive':
                return new Inactive($detail, $facts);
            case in_array($code, ['shop_not_configured', 'payment_not_found'], true):
                return new NotFound($detail, $facts);
            case in_array($code, ['validation_failed', 'idempotency_key_reused', 'device_token_missing'], true):
                return new BadRequest($detail, $facts);
            case in_array($code, ['still_running', 'refund_already_open'], true):
                return $movedMoney ? new OutcomeUnknown($detail, $facts) : new Unavailable($detail, $facts);
            case in_array($reply->status, [409, 422], true) || $code === 'provider_refused':
                return new Rejected($detail, $facts);
            case $reply->status >= 400 && $reply->status < 500:
                return new BadRequest($detail, $facts);
            default:
                return $movedMoney ? new OutcomeUnknown($detail, $facts) : new Unavailable($detail, $facts);
        }
    }

    private function debugReply(string $what, Reply $reply): void
    {
        $this->log->debug('service.answered', [
            'what' => $what,
            'http_status' => $reply->status,
            'error' => $reply->error,
            'request_id' => $reply->header('X-Request-ID'),
            'code' => $reply->json()['code'] ?? null,
            'state' => $reply->json()['state'] ?? null,
        ]);
    }

    private static function checkedUrl(string $url): string
    {
        $url = preg_replace('#/api$#', '', rtrim(trim($url), '/'));
        $parts = parse_url($url);
        $host = strtolower((string) ($parts['host'] ?? ''));
        $isHere = in_array($host, ['localhost', '127.0.0.1', '[::1]'], true);
        $scheme = strtolower((string) ($parts['scheme'] ?? ''));
        if ($host === '' || isset($parts['user']) || isset($parts['query']) || !($scheme === 'https' || ($scheme === 'http' && $isHere))) {
            throw new BadRequest('The address of the payment service is an https:// address without user and query; http only on this machine.');
        }

        return $url;
    }

    /** @param mixed $shopId */
    private static function checkedShop($shopId): int
    {
        if ((is_int($shopId) || (is_string($shopId) && preg_match('/^\d{1,10}$/D', $shopId))) && $shopId > 0) {
            return (int) $shopId;
        }
        throw new BadRequest('A shop is a number above zero.');
    }

    /** @param mixed $externalId */
    private static function checkedExternalId($externalId): string
    {
        if (is_scalar($externalId) && preg_match('/^[A-Za-z0-9_-]{1,50}$/D', (string) $externalId)) {
            return (string) $externalId;
        }
        throw new BadRequest("The id of a payment at Kaspi is 1 to 50 letters and digits.");
    }

    private static function checkedReport(array $report): array
    {
        $report = array_intersect_key($report, array_flip([
            'shop_id', 'organization_bin', 'operation_type', 'external_id', 'amount', 'status', 'error_message', 'provider', 'report_id',
        ]));
        $report = array_filter($report, static function ($value) {
            return $value !== null && $value !== '';
        });
        if (!isset($report['shop_id'], $report['operation_type'])) {
            throw new BadRequest('A report needs shop_id and operation_type.');
        }
        $report['shop_id'] = self::checkedShop($report['shop_id']);
        foreach (['status' => 50, 'error_message' => 500] as $name => $longest) {
            if (isset($report[$name])) {
                $report[$name] = self::cut((string) $report[$name], $longest);
            }
        }

        return $report;
    }

    private static function cut(string $text, int $longest): string
    {
        // Not mb_substr: the mbstring extension is not everywhere.
        return preg_match('/^.{0,' . $longest . '}/us', $text, $found) ? $found[0] : substr($text, 0, $longest);
    }
}
