<?php
/** An invoice is at the buyer's phone, or its outcome is not known yet: nothing here can send another one. */

use Bitrix\Main\Localization\Loc;

require __DIR__ . '/style.php';
$cvetyKaspiIsKnown = $params['REASON'] !== 'unknown';
?>
<div class="cvetykaspi">
    <h2><?= Loc::getMessage($cvetyKaspiIsKnown ? 'SALE_HPS_CVETYKASPI_SENT_TITLE' : 'SALE_HPS_CVETYKASPI_UNKNOWN_TITLE') ?></h2>
    <p class="cvetykaspi__sum"><?= $params['SUM'] ?></p>
    <p><?= Loc::getMessage($cvetyKaspiIsKnown ? 'SALE_HPS_CVETYKASPI_SENT' : 'SALE_HPS_CVETYKASPI_UNKNOWN', [
        '#PHONE#' => $params['PHONE_LAST4'] === '' ? '' : '•••&nbsp;' . htmlspecialcharsbx($params['PHONE_LAST4']),
    ]) ?></p>
    <?php require __DIR__ . '/ask.php' ?>
</div>
