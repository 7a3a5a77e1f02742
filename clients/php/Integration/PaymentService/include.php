<?php
/**
 * Everything of the payment service's client, without an autoloader: require this one file.
 */

foreach ([
    'PaymentServiceException', 'NotFound', 'Inactive', 'Rejected', 'OutcomeUnknown', 'Unavailable', 'BadRequest',
    'Bytes', 'Amount', 'Files', 'Log', 'Reply', 'Http', 'Pause', 'Journal', 'ConfigCache', 'SignedConfig', 'ShopConfigs',
    'SiteSettings', 'Client', 'OrderAccess', 'Marking', 'TakenPayments', 'BitrixPaymentId', 'SellerRule', 'People', 'BitrixOrders',
    'WebhookReceiver', 'Checkout', 'Refunds', 'EqualCalls', 'MissedEvents', 'BitrixEvents', 'Agents',
] as $paymentServiceFile) {
    require_once __DIR__ . '/' . $paymentServiceFile . '.php';
}
unset($paymentServiceFile);
require_once __DIR__ . '/../Kaspi/ApiClient.php';
