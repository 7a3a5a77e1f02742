<?php
/** The page that pays a payment, as the component sale.order.payment shows it: without a head, whatever the handler prints. */

use Bitrix\Main\Application;
use Bitrix\Sale;

require $_SERVER['DOCUMENT_ROOT'] . '/bitrix/modules/main/include/prolog_before.php';

Bitrix\Main\Loader::includeModule('sale');
define('LANGUAGE_ID', $_GET['lang'] ?? 'ru');
header('Content-Type: text/html; charset=UTF-8');
$order = Sale\Order::load((int) $_GET['ORDER_ID']);
$payment = $order->getPaymentCollection()->getItemById((int) $_GET['PAYMENT_ID']);
$service = Sale\PaySystem\Manager::getObjectById($payment->getPaymentSystemId());
$result = $service->initiatePay($payment, Application::getInstance()->getContext()->getRequest());
echo $result->isSuccess() ? '' : implode('<br>', $result->getErrorMessages());
