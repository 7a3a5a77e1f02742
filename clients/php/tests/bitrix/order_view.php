<?php
/** The buttons above an order in Bitrix's admin pages, as JSON: /bitrix/admin/sale_order_view.php asks for them in this way. */

require $_SERVER['DOCUMENT_ROOT'] . '/bitrix/modules/main/include/prolog_before.php';
require $_SERVER['DOCUMENT_ROOT'] . '/local/classes/Integration/PaymentService/include.php';

Bitrix\Main\Localization\Loc::loadMessages($_SERVER['DOCUMENT_ROOT'] . '/local/php_interface/include/sale_payment/cvetykaspi/handler.php');
Integration\PaymentService\BitrixEvents::register();
$_SERVER['REQUEST_URI'] = '/bitrix/admin/sale_order_view.php?ID=' . $_GET['ID'];
$items = [['TEXT' => 'list']];
foreach (Bitrix\Main\EventManager::getInstance()->findEventHandlers('main', 'OnAdminContextMenuShow') as $callback) {
    $callback(...[&$items]);
}
echo json_encode($items);
