<?php
/** As Bitrix's own page of this name: hands a request to the payment system that says it is its own. */

use Bitrix\Main\Application;
use Bitrix\Sale\PaySystem;

require $_SERVER['DOCUMENT_ROOT'] . '/bitrix/modules/main/include/prolog_before.php';

Bitrix\Main\Loader::includeModule('sale');
$request = Application::getInstance()->getContext()->getRequest();
$item = PaySystem\Manager::searchByRequest($request);
if ($item !== false) {
    (new PaySystem\Service($item))->processRequest($request);
}
