<?php
/**
 * The address that the payment service's events are sent to.
 *
 * On a Bitrix site, a file of the web folder (see docs/bitrix.md) includes this one. A site with orders of another kind sets
 * $paymentServiceOrders, an Integration\PaymentService\OrderAccess, before it includes this file.
 */

use Integration\PaymentService\BitrixOrders;
use Integration\PaymentService\PaymentServiceException;
use Integration\PaymentService\SiteSettings;
use Integration\PaymentService\WebhookReceiver;

require_once __DIR__ . '/bitrix.php';
require_once __DIR__ . '/include.php';

(static function ($orders) {
    $answer = static function (int $status, string $word): void {
        http_response_code($status);
        header('Content-Type: application/json');
        echo json_encode(['result' => $word]);
    };
    if (($_SERVER['REQUEST_METHOD'] ?? '') !== 'POST') {
        header('Allow: POST');
        $answer(405, 'post_only');

        return;
    }
    try {
        $settings = new SiteSettings();
        $folder = $settings->folder();
        if ($folder === null) {
            throw new \RuntimeException('The setting payment_service_folder is missing.');
        }
        $secrets = preg_split('/[\s]+/', $settings->required('payment_service_webhook_secret'), -1, PREG_SPLIT_NO_EMPTY);
        $receiver = new WebhookReceiver($secrets, $orders ?? new BitrixOrders(), $folder);
        $headers = [];
        foreach (['id', 'timestamp', 'signature'] as $name) {
            $headers['webhook-' . $name] = (string) ($_SERVER['HTTP_WEBHOOK_' . strtoupper($name)] ?? '');
        }
        $body = (string) file_get_contents('php://input', false, null, 0, WebhookReceiver::MAX_BYTES + 1);
        list($status, $word) = $receiver->receive($headers, $body);
        $answer($status, $word);
    } catch (\Throwable $problem) {
        error_log('payment-service: webhook: ' . get_class($problem) . ': ' . $problem->getMessage());
        $answer(500, $problem instanceof PaymentServiceException ? 'not_set_up' : 'try_again');
    }
})($paymentServiceOrders ?? null);
