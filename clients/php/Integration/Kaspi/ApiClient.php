<?php

namespace Integration\Kaspi;

use Integration\PaymentService\Amount;
use Integration\PaymentService\BadRequest;
use Integration\PaymentService\Client;
use Integration\PaymentService\EqualCalls;
use Integration\PaymentService\Http;
use Integration\PaymentService\Log;
use Integration\PaymentService\OutcomeUnknown;
use Integration\PaymentService\PaymentServiceException;
use Integration\PaymentService\Reply;
use Integration\PaymentService\SiteSettings;
use Integration\PaymentService\Unavailable;

/**
 * Kaspi's own API (r3), called by the site with its certificate: the drop-in for the site's own client.
 *
 * BIN and device token are always the ones of the shop, by Client::getPaymentConfig(), whatever the caller passes. Each
 * operation is reported to the payment service once its outcome is known; one that moves money is written into the
 * journal before it begins.
 *
 * A method returns an array, as the site's own client did: data (Kaspi's answer: StatusCode, Message, Data), http_code,
 * headers, sentData (without secrets), ip, curlErrors, method, timestamp; and outcome: accepted or rejected. A read that failed has
 * data null and curlErrors. A call that moves money throws instead: Unavailable when nothing was sent, OutcomeUnknown when
 * nobody knows. Kaspi has no idempotency: after OutcomeUnknown look into the seller's Kaspi Pay before anything is sent again.
 * An equal invoice or refund within a minute is the same one, and within a day when nobody knows its outcome (EqualCalls).
 */
class ApiClient
{
    /** Kaspi's codes that say that no money was moved; any other one leaves the outcome of a money call unknown. */
    const NOT_MOVED = [
        -10000, -1501, -1502, -1503, -1601, -99000001, -14000002, -99000002, -99000003, -99000005, -99000011, -99000020,
        990000018, 990000026, 990000028, 990000033, -990000018, -990000026, -990000028, -990000033,
    ];
    /** Codes that say that the shop's BIN or device token may have changed. */
    const ROUTING_IS_WRONG = [-1501, -1502, -99000002, -99000003];
    /** HTTP statuses with which something before Kaspi turned us away. */
    const TURNED_AWAY = [401, 403, 404, 405, 429];
    const PAUSES_S = [0.2, 1.0];
    /** Of one buyer or one payment: an equal one within a minute is the same. Two buyers may scan codes of one sum. */
    const KNOWN_BY_THEIR_WORDS = ['create', 'refund'];

    private $settings;
    private $service;
    private $log;
    private $url;
    private $http;

    /**
     * @param array $params any setting of SiteSettings, such as payment_service_url and payment_service_key; what is not
     *     given comes from the options of the module onelab.kaspipay. For tests: client, http
     * @throws BadRequest when a setting is missing
     */
    public function __construct($params = [])
    {
        $given = $params;
        unset($given['client'], $given['http']);
        $this->settings = new SiteSettings($given);
        $this->service = $params['client'] ?? $this->settings->client();
        $this->log = new Log($this->settings->folder());
        $this->log->hide($this->settings->text('kaspi_key_password'), $this->settings->text('payment_service_key'));
        $this->url = rtrim($this->settings->required('kaspi_url'), '/');
        if (strncmp($this->url, 'https://', 8) !== 0) {
            throw new BadRequest('The setting kaspi_url is an https:// address.');
        }
        $this->http = $params['http'] ?? new Http(3, 10, [
            'ca_file' => $this->settings->text('kaspi_ca_file'),
            'certificate' => $this->readable('kaspi_certificate'),
            'key' => $this->readable('kaspi_key'),
            'key_password' => $this->settings->text('kaspi_key_password'),
        ]);
    }

    /**
     * Invoice a phone.
     *
     * @param array $params Amount (tenge), PhoneNumber, Comment ...
     * @param int|string|null $shopId the shop; from the context when it is left out
     */
    public function createRemotePay($params, $shopId = null)
    {
        return $this->moveMoney('create', '/r3/v01/remote/create/', $params, $shopId, ['QrPaymentId']);
    }

    /** Make a QR code. (The name is the one that existing callers use.) */
    public function getCreteQr($params, $shopId = null)
    {
        return $this->moveMoney('create-qr', '/r3/v01/qr/create', $params, $shopId, ['QrPaymentId']);
    }

    /** Make a payment link. */
    public function createLink($params, $shopId = null)
    {
        return $this->moveMoney('create-link', '/r3/v01/qr/create-link', $params, $shopId, ['PaymentId', 'QrPaymentId']);
    }

    /**
     * Pay back a paid payment, whole or in part.
     *
     * The shop's BIN must still be the one that took the payment, else Kaspi refuses (-99000003); Client::refund() keeps
     * the BIN of each payment.
     *
     * @param array $params QrPaymentId, Amount (tenge)
     */
    public function paymentReturn($params, $shopId = null)
    {
        $params['QrPaymentId'] = self::checkedId($params['QrPaymentId'] ?? null);

        return $this->moveMoney('refund', '/r3/v01/payment/return', $params, $shopId, []);
    }

    /**
     * Where a payment stands. Kaspi needs no BIN for it, so a shop is only needed to report it.
     *
     * @param int|string $id Kaspi's id of the payment
     */
    public function status($id, $shopId = null)
    {
        $id = self::checkedId($id);
        $shopId = $shopId ?: $this->shopOfContext();
        $reply = $this->http->send('GET', $this->url . '/r3/v01/payment/status/' . $id . '/', $this->headers(false));
        $answer = $this->answer('GET', '/r3/v01/payment/status/' . $id . '/', [], $reply, $reply->json());
        if ($shopId === null) {
            $this->log->info('status.not_reported', ['external_id' => (string) $id, 'because' => 'nobody said of which shop it is']);

            return $answer;
        }
        $this->report('', [
            'shop_id' => $shopId,
            'operation_type' => 'status',
            'external_id' => (string) $id,
            'status' => self::textOf($answer['data']['Data']['Status'] ?? null),
            'error_message' => self::whatWentWrong($reply, $answer['data']),
        ]);

        return $answer;
    }

    /** The details of a payment. @param array|int|string $params QrPaymentId, or the id itself */
    public function get($params, $shopId = null)
    {
        $params = is_array($params) ? $params : ['QrPaymentId' => $params];
        $params['QrPaymentId'] = self::checkedId($params['QrPaymentId'] ?? null);

        return $this->read('details', '/r3/v01/payment/details', $params, $shopId, (string) $params['QrPaymentId']);
    }

    /** The name of the client behind a phone. @param array $params PhoneNumber */
    public function remoteClientInfo($params, $shopId = null)
    {
        return $this->read('client-info', '/r3/v01/remote/client-info', $params, $shopId, null);
    }

    /**
     * The routing of a shop, fit for a call to Kaspi.
     *
     * @throws PaymentServiceException when it is not known, or lacks what Kaspi needs
     */
    protected function getPaymentConfig($shopId = null)
    {
        $config = $this->service->getPaymentConfig($shopId ?: $this->getShopIdFromContext());
        $token = (string) ($config['device_token'] ?? '');
        $this->log->hide($token);
        if (($config['provider'] ?? 'kaspi') !== 'kaspi') {
            throw new BadRequest("Shop {$config['shop_id']} is not paid through Kaspi.");
        }
        if ($token === '') {
            throw new BadRequest("Shop {$config['shop_id']} has no device token, and Kaspi wants one.", ['code' => 'device_token_missing']);
        }
        if (!preg_match('/^[A-Za-z0-9-]{8,50}$/D', $token)) {
            throw new BadRequest('The device token is masked: the API key of this site lacks the scope secrets:read.');
        }
        if (!preg_match('/^\d{12}$/D', (string) ($config['organization_bin'] ?? ''))) {
            throw new BadRequest("Shop {$config['shop_id']} has no BIN.");
        }

        return $config;
    }

    /**
     * The shop of this call: of the order, else of the product, else of the request, else of the header X-Shop-Id, else
     * the default shop if the site has set one.
     *
     * @return int
     * @throws BadRequest when none says, or one says what is no shop
     */
    protected function getShopIdFromContext()
    {
        $shopId = $this->shopOfContext();
        if ($shopId === null) {
            throw new BadRequest('Nobody said of which shop this is: no order, product, request parameter shop_id or header X-Shop-Id.');
        }

        return $shopId;
    }

    private function shopOfContext(): ?int
    {
        $places = [
            $GLOBALS['arOrder']['SHOP_ID'] ?? null,
            $GLOBALS['arProduct']['SHOP_ID'] ?? null,
            $_POST['shop_id'] ?? $_GET['shop_id'] ?? null,
            $_SERVER['HTTP_X_SHOP_ID'] ?? null,
            $this->settings->text('payment_service_default_shop_id'),
        ];
        foreach ($places as $said) {
            if ($said === null || $said === '' || $said === 0) {
                continue;
            }
            // The first who says decides: a mistake there must not be paid to whom the next one names.
            if (!is_scalar($said) || !preg_match('/^[1-9]\d{0,9}$/D', (string) $said)) {
                throw new BadRequest('The shop that order, product, request or header names is not a number above zero.');
            }

            return (int) $said;
        }

        return null;
    }

    private function moveMoney(string $operation, string $path, $params, $shopId, array $idNames): array
    {
        $config = $this->getPaymentConfig($shopId);
        $tiyn = Amount::tiyn($params['Amount'] ?? null);
        $params = self::ours(['Amount' => Amount::number($tiyn)], $config, $params);
        $report = [
            'shop_id' => $config['shop_id'],
            'organization_bin' => $config['organization_bin'],
            'operation_type' => $operation,
            'external_id' => isset($params['QrPaymentId']) ? (string) $params['QrPaymentId'] : null,
            'amount' => $tiyn,
            'provider' => 'kaspi',
        ];
        if (!in_array($operation, self::KNOWN_BY_THEIR_WORDS, true)) {
            return $this->send($operation, $path, $params, $report, $idNames);
        }
        // An id as a number or as text is one id.
        $words = array_map(static function ($value) {
            return is_scalar($value) ? (string) $value : $value;
        }, $params);
        ksort($words);

        return (new EqualCalls($this->settings->folder()))->once(
            $operation . "\n" . $config['shop_id'] . "\n" . Http::encode($words),
            function () use ($operation, $path, $params, $report, $idNames): array {
                return $this->send($operation, $path, $params, $report, $idNames);
            }
        );
    }

    private function send(string $operation, string $path, array $params, array $report, array $idNames): array
    {
        $body = Http::encode($params);
        $id = $this->service->beginOperation(
            ['error_message' => 'Outcome unknown: the page ended before Kaspi answered.'] + $report
        );
        $reply = $this->http->sendAgainWhile(
            static function (Reply $reply): bool {
                return $reply->refused;
            },
            self::PAUSES_S,
            'POST',
            $this->url . $path,
            $this->headers(true),
            $body
        );
        $said = $reply->json();
        $outcome = self::outcome($reply, $said, $idNames);
        $report['external_id'] = $report['external_id'] ?? self::idIn($said, $idNames);
        $report['status'] = self::textOf($said['Data']['Status'] ?? null);
        $wrong = self::whatWentWrong($reply, $said);
        // The service reads the first words: what they do not call not sent, or Kaspi's code refused, may have been done.
        $words = ['unknown' => 'Outcome unknown: ' . ($wrong ?? 'Kaspi named no payment.'), 'not_sent' => 'Nothing was sent: ' . $wrong];
        $report['error_message'] = $words[$outcome] ?? $wrong;
        $this->report($id, $report);

        $code = $said['StatusCode'] ?? null;
        if (in_array($code, self::ROUTING_IS_WRONG, true)) {
            $this->service->doubtPaymentConfig($report['shop_id']);
        }
        $facts = ['code' => $outcome, 'provider_code' => $code, 'status' => $reply->status];
        if ($outcome === 'not_sent') {
            throw new Unavailable('Kaspi cannot be reached: ' . $reply->error . '. Nothing was sent.', $facts);
        }
        if ($outcome === 'unknown') {
            throw new OutcomeUnknown(
                'It is not known whether Kaspi did this (' . ($wrong ?? 'it named no payment') . '): look it up before it is asked for again.',
                $facts
            );
        }

        return ['outcome' => $outcome] + $this->answer('POST', $path, $params, $reply, $said);
    }

    private function read(string $operation, string $path, array $params, $shopId, ?string $externalId): array
    {
        $config = $this->getPaymentConfig($shopId);
        $params = self::ours([], $config, $params);
        $reply = $this->http->send('GET', $this->url . $path . '?' . http_build_query($params), $this->headers(false));
        $said = $reply->json();
        $this->report('', [
            'shop_id' => $config['shop_id'],
            'organization_bin' => $config['organization_bin'],
            'operation_type' => $operation,
            'external_id' => $externalId,
            'status' => self::textOf($said['Data']['Status'] ?? null),
            'error_message' => self::whatWentWrong($reply, $said),
        ]);

        return $this->answer('GET', $path, $params, $reply, $said);
    }

    /**
     * What is sent: our values, and of the caller's the rest.
     *
     * Kaspi does not mind the case of a name, and may take the last of two: organizationBin beside OrganizationBin.
     */
    private static function ours(array $ours, array $config, array $params): array
    {
        $ours += ['OrganizationBin' => $config['organization_bin'], 'DeviceToken' => $config['device_token']];
        $ours += isset($params['QrPaymentId']) ? ['QrPaymentId' => $params['QrPaymentId']] : [];
        $taken = array_change_key_case($ours);

        return $ours + array_filter($params, static function ($name) use ($taken): bool {
            return !array_key_exists(strtolower((string) $name), $taken);
        }, ARRAY_FILTER_USE_KEY);
    }

    /** The report never stands between a buyer and the outcome: what goes wrong with it is logged, and the journal keeps it. */
    private function report(string $id, array $report): void
    {
        try {
            $this->service->createPaymentLog(($id === '' ? [] : ['report_id' => $id]) + $report);
        } catch (PaymentServiceException $problem) {
            $this->log->error('report.failed', array_diff_key($report, ['amount' => 0]) + ['because' => $problem->getMessage()]);
        }
    }

    /** accepted, rejected, not_sent or unknown. */
    private static function outcome(Reply $reply, ?array $said, array $idNames): string
    {
        if (!$reply->sent) {
            return 'not_sent';
        }
        if (in_array($reply->status, self::TURNED_AWAY, true)) {
            return 'rejected';
        }
        if ($reply->status !== 200 || !is_int($said['StatusCode'] ?? null)) {
            return 'unknown';
        }
        if ($said['StatusCode'] !== 0) {
            return in_array($said['StatusCode'], self::NOT_MOVED, true) ? 'rejected' : 'unknown';
        }

        return $idNames === [] || self::idIn($said, $idNames) !== null ? 'accepted' : 'unknown';
    }

    private static function idIn(?array $said, array $names): ?string
    {
        foreach ($names as $name) {
            $id = $said['Data'][$name] ?? null;
            if (is_scalar($id) && preg_match('/^[A-Za-z0-9_-]{1,50}$/D', (string) $id) && (string) $id !== '0') {
                return (string) $id;
            }
        }

        return null;
    }

    private static function whatWentWrong(Reply $reply, ?array $said): ?string
    {
        if ($reply->error !== '') {
            return $reply->error;
        }
        if (!is_int($said['StatusCode'] ?? null)) {
            return 'HTTP ' . $reply->status . ' without an answer of Kaspi';
        }

        return $said['StatusCode'] === 0 ? null : 'Kaspi ' . $said['StatusCode'] . ': ' . self::textOf($said['Message'] ?? null);
    }

    private function answer(string $method, string $path, array $sent, Reply $reply, ?array $said): array
    {
        $shown = array_diff_key($sent, ['DeviceToken' => 0, 'PhoneNumber' => 0, 'phoneNumber' => 0]);
        $this->log->debug('kaspi.answered', [
            'method' => $method,
            'path' => $path,
            'sent' => $shown,
            'http_status' => $reply->status,
            'status_code' => $said['StatusCode'] ?? null,
            'message' => $said['Message'] ?? null,
            'error' => $reply->error,
        ]);

        return [
            'data' => $said,
            'http_code' => (string) $reply->status,
            'headers' => $reply->headers,
            'sentData' => $shown,
            'ip' => $reply->ip,
            'curlErrors' => $reply->error,
            'method' => $method . ':' . $this->url . $path,
            'timestamp' => date('Y-m-d H:i:sP'),
        ];
    }

    private function headers(bool $withBody): array
    {
        return ['Accept' => 'application/json'] + ($withBody ? ['Content-Type' => 'application/json'] : []);
    }

    private function readable(string $name): string
    {
        $path = $this->settings->required($name);
        if (!is_readable($path)) {
            throw new BadRequest("The file that the setting $name names cannot be read by this user.");
        }

        return $path;
    }

    /** @return int|string as the caller gave it */
    private static function checkedId($id)
    {
        if ((is_int($id) || is_string($id)) && preg_match('/^[A-Za-z0-9_-]{1,50}$/D', (string) $id)) {
            return $id;
        }
        throw new BadRequest('The id of a payment at Kaspi is 1 to 50 letters and digits.');
    }

    /** @param mixed $value */
    private static function textOf($value): string
    {
        return is_scalar($value) ? (string) $value : '';
    }
}
