<?php
/**
 * Starts Bitrix's core where it is installed and not yet started, without statistics, sessions' checks and output.
 */

if (!defined('B_PROLOG_INCLUDED') && !class_exists('Bitrix\Main\Config\Option', false)) {
    $paymentServiceProlog = (string) ($_SERVER['DOCUMENT_ROOT'] ?? '') . '/bitrix/modules/main/include/prolog_before.php';
    if (is_file($paymentServiceProlog)) {
        foreach (['NO_KEEP_STATISTIC', 'NO_AGENT_STATISTIC', 'NO_AGENT_CHECK', 'NOT_CHECK_PERMISSIONS', 'STOP_STATISTICS', 'PUBLIC_AJAX_MODE'] as $name) {
            defined($name) || define($name, true);
        }
        require_once $paymentServiceProlog;
    }
    unset($paymentServiceProlog);
}
