<?php
/** A phone for the invoice, or a button for the link. The number of the attempt comes back, so that a second press sends nothing. */

use Bitrix\Main\Localization\Loc;

require __DIR__ . '/style.php';
$cvetyKaspiNote = $params['REASON'] === '' ? '' : Loc::getMessage('SALE_HPS_CVETYKASPI_REASON_' . strtoupper($params['REASON']));
?>
<div class="cvetykaspi">
    <h2><?= Loc::getMessage('SALE_HPS_CVETYKASPI_TITLE') ?></h2>
    <p class="cvetykaspi__sum"><?= $params['SUM'] ?></p>
    <?php if ($cvetyKaspiNote !== '') : ?>
        <p class="cvetykaspi__note" role="alert"><?= $cvetyKaspiNote ?></p>
    <?php endif ?>
    <form method="post" action="<?= htmlspecialcharsbx($params['HERE']) ?>">
        <?= bitrix_sessid_post() ?>
        <input type="hidden" name="CVETYKASPI_PAYMENT" value="<?= (int) $params['PAYMENT_ID'] ?>">
        <input type="hidden" name="CVETYKASPI_ATTEMPT" value="<?= (int) $params['ATTEMPT'] ?>">
        <?php if (in_array('phone', $params['WAYS'], true)) : ?>
            <label class="cvetykaspi__label" for="cvetykaspi-phone-<?= (int) $params['PAYMENT_ID'] ?>"><?= Loc::getMessage('SALE_HPS_CVETYKASPI_YOUR_PHONE') ?></label>
            <input class="cvetykaspi__input" id="cvetykaspi-phone-<?= (int) $params['PAYMENT_ID'] ?>" type="tel" name="CVETYKASPI_PHONE" inputmode="tel"
                autocomplete="tel" maxlength="20" placeholder="+7 7__ ___ __ __" value="<?= htmlspecialcharsbx($params['PHONE']) ?>">
            <p class="cvetykaspi__hint"><?= Loc::getMessage('SALE_HPS_CVETYKASPI_YOUR_PHONE_HINT') ?></p>
            <button class="cvetykaspi__button" type="submit" name="CVETYKASPI_WAY" value="phone"><?= Loc::getMessage('SALE_HPS_CVETYKASPI_SEND') ?></button>
        <?php endif ?>
        <?php if (count($params['WAYS']) > 1) : ?>
            <div class="cvetykaspi__or"><?= Loc::getMessage('SALE_HPS_CVETYKASPI_OR') ?></div>
        <?php endif ?>
        <?php if (in_array('link', $params['WAYS'], true)) : ?>
            <button class="cvetykaspi__button<?= count($params['WAYS']) > 1 ? ' cvetykaspi__button--quiet' : '' ?>" type="submit" name="CVETYKASPI_WAY" value="link"><?= Loc::getMessage('SALE_HPS_CVETYKASPI_MAKE_LINK') ?></button>
        <?php endif ?>
    </form>
</div>
