<?php
/**
 * What a manager of the shop does in Bitrix, as a test says it: reads {do, order, payment, sum, fields} from standard input, writes
 * {errors} to standard output.
 */

use Bitrix\Sale;
use Integration\PaymentService\BitrixEvents;

$asked = json_decode(stream_get_contents(STDIN), true);
$_SERVER['DOCUMENT_ROOT'] = getenv('DOCUMENT_ROOT');
set_error_handler(static function ($level, $message, $file, $line) {
    if (error_reporting() & $level) {
        throw new ErrorException($message, 0, $level, $file, $line);
    }
});
require $_SERVER['DOCUMENT_ROOT'] . '/bitrix/modules/main/include/prolog_before.php';
require $_SERVER['DOCUMENT_ROOT'] . '/local/classes/Integration/PaymentService/include.php';
Bitrix\Main\Loader::includeModule('sale');
BitrixEvents::register();

$order = Sale\Order::load($asked['order']);
$payment = $order->getPaymentCollection()->getItemById($asked['payment']);
usleep((int) (($asked['dwell_s'] ?? 0) * 1000000));  // the form stays open
switch ($asked['do']) {
    case 'return':  // the order form: always the whole sum
        $result = $payment->setReturn(Sale\Payment::RETURN_PS);
        break;
    case 'refund':  // the site's own code: a part
        $result = $payment->getPaySystem()->refund($payment, $asked['sum']);
        break;
    case 'check':
        $result = $payment->getPaySystem()->check($payment);
        break;
    case 'change':  // the order form: the sum, the payment system, "paid"
        $result = $payment->setFields($asked['fields']);
        break;
    case 'delete':
        $result = $payment->delete();
        break;
    case 'cancel':
        $result = $order->setField('CANCELED', 'Y');
        break;
}
if ($result->isSuccess() && $asked['do'] !== 'check') {
    $result = $order->save();
}
echo json_encode(['errors' => $result->getErrorMessages()], JSON_THROW_ON_ERROR);
