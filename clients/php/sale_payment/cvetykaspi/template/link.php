<?php
/** The link, as a button and as a QR code, and the wait for its payment. */

use Bitrix\Main\Localization\Loc;

require __DIR__ . '/style.php';
?>
<div class="cvetykaspi">
    <h2><?= Loc::getMessage('SALE_HPS_CVETYKASPI_LINK_TITLE') ?></h2>
    <p class="cvetykaspi__sum"><?= $params['SUM'] ?></p>
    <?php if ($params['QR'] !== '') : ?>
        <p class="cvetykaspi__hint"><?= Loc::getMessage('SALE_HPS_CVETYKASPI_QR_HINT') ?></p>
        <img class="cvetykaspi__qr" src="data:image/png;base64,<?= $params['QR'] ?>" alt="<?= Loc::getMessage('SALE_HPS_CVETYKASPI_QR_ALT') ?>">
    <?php endif ?>
    <p><a class="cvetykaspi__button" href="<?= htmlspecialcharsbx($params['LINK']) ?>" rel="noreferrer"><?= Loc::getMessage('SALE_HPS_CVETYKASPI_OPEN') ?></a></p>
    <?php require __DIR__ . '/ask.php' ?>
</div>
