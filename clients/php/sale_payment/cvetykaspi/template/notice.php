<?php
/** Paid, or not to be paid in this way now. */

use Bitrix\Main\Localization\Loc;

require __DIR__ . '/style.php';
$cvetyKaspiIsPaid = $params['STEP'] === 'paid';
$cvetyKaspiReason = $params['REASON'] === '' ? 'PAID' : strtoupper($params['REASON']);
?>
<div class="cvetykaspi">
    <h2><?= Loc::getMessage($cvetyKaspiIsPaid ? 'SALE_HPS_CVETYKASPI_PAID_TITLE' : 'SALE_HPS_CVETYKASPI_TITLE') ?></h2>
    <p class="cvetykaspi__sum"><?= $params['SUM'] ?></p>
    <p class="cvetykaspi__note<?= $cvetyKaspiIsPaid ? ' cvetykaspi__note--good' : '' ?>" role="status"><?= Loc::getMessage('SALE_HPS_CVETYKASPI_REASON_' . $cvetyKaspiReason) ?></p>
    <?php if ($params['STEP'] === 'away') : ?>
        <a class="cvetykaspi__button cvetykaspi__button--quiet" href="<?= htmlspecialcharsbx($params['HERE']) ?>"><?= Loc::getMessage('SALE_HPS_CVETYKASPI_LOOK') ?></a>
    <?php endif ?>
</div>
