<?php
/**
 * The page on which a manager of the shop pays back a part of a payment through Kaspi: Bitrix's order form knows the whole only.
 *
 * A file of the web folder (see docs/bitrix.md) includes this one. The form carries what was paid back so far when it was shown,
 * so that a second press of its button pays nothing.
 */

use Bitrix\Main\Localization\Loc;
use Integration\PaymentService\Amount;
use Integration\PaymentService\BadRequest;
use Integration\PaymentService\BitrixOrders;

require_once __DIR__ . '/bitrix.php';
require_once __DIR__ . '/include.php';

(static function (): void {
    header('Content-Type: text/html; charset=UTF-8');
    header('Cache-Control: no-store');
    header('X-Frame-Options: SAMEORIGIN');
    // "U" is the right to process orders.
    if (!is_object($GLOBALS['USER'] ?? null) || !$GLOBALS['USER']->IsAuthorized() || $GLOBALS['APPLICATION']->GetGroupRight('sale') < 'U') {
        http_response_code(403);

        return;
    }
    $payment = BitrixOrders::paymentById((string) ($_GET['PAYMENT_ID'] ?? ''));
    if ($payment === null) {
        http_response_code(404);

        return;
    }
    Loc::loadMessages($_SERVER['DOCUMENT_ROOT'] . '/local/php_interface/include/sale_payment/' . BitrixOrders::HANDLER . '/handler.php');
    $text = static function (string $code, array $replace = []): string {
        return htmlspecialchars((string) Loc::getMessage('SALE_HPS_CVETYKASPI_REFUND_' . $code, $replace), ENT_QUOTES, 'UTF-8');
    };
    $said = '';
    $isGood = false;
    if (($_SERVER['REQUEST_METHOD'] ?? '') === 'POST' && check_bitrix_sessid()) {
        try {
            $sum = str_replace([',', ' '], ['.', ''], (string) ($_POST['SUM'] ?? ''));
            if (!preg_match('/^\d{1,8}(\.\d{1,2})?$/D', $sum) || (float) $sum <= 0) {
                throw new BadRequest((string) Loc::getMessage('SALE_HPS_CVETYKASPI_REFUND_NO_SUM'));
            }
            $tiyn = Amount::tiyn($sum);
            if ((string) BitrixOrders::refundedOf($payment) !== (string) ($_POST['SHOWN'] ?? '')) {
                throw new BadRequest((string) Loc::getMessage('SALE_HPS_CVETYKASPI_REFUND_CHANGED'));
            }
            $result = $payment->getPaySystem()->refund($payment, $tiyn / 100);
            $result = $result->isSuccess() ? $payment->getOrder()->save() : $result;
            $isGood = $result->isSuccess();
            $said = $isGood ? $text('DONE', ['#SUM#' => Amount::text($tiyn)]) : htmlspecialchars(implode(' ', $result->getErrorMessages()), ENT_QUOTES, 'UTF-8');
        } catch (BadRequest $wrong) {
            $said = htmlspecialchars($wrong->getMessage(), ENT_QUOTES, 'UTF-8');
        }
    }
    $refunded = BitrixOrders::refundedOf($payment);
    $kept = (int) round($payment->getSum() * 100) - $refunded;
    $facts = ['#ORDER#' => $payment->getOrder()->getField('ACCOUNT_NUMBER'), '#KEPT#' => Amount::text($kept), '#REFUNDED#' => Amount::text($refunded)];
    ?>
<!doctype html>
<meta charset="utf-8">
<title><?= $text('TITLE', $facts) ?></title>
    <?php require $_SERVER['DOCUMENT_ROOT'] . '/local/php_interface/include/sale_payment/' . BitrixOrders::HANDLER . '/template/style.php' ?>
<div class="cvetykaspi">
    <h2><?= $text('TITLE', $facts) ?></h2>
    <p><?= $text('FACTS', $facts) ?></p>
    <?php if ($said !== '') : ?>
        <p class="cvetykaspi__note<?= $isGood ? ' cvetykaspi__note--good' : '' ?>" role="alert"><?= $said ?></p>
    <?php endif ?>
    <?php if ($payment->isPaid() && $kept > 0) : ?>
        <form method="post">
            <?= bitrix_sessid_post() ?>
            <input type="hidden" name="SHOWN" value="<?= $refunded ?>">
            <label class="cvetykaspi__label" for="cvetykaspi-sum"><?= $text('SUM') ?></label>
            <input class="cvetykaspi__input" id="cvetykaspi-sum" name="SUM" inputmode="decimal" autocomplete="off" required>
            <p class="cvetykaspi__hint"><?= $text('HINT') ?></p>
            <button class="cvetykaspi__button" type="submit"><?= $text('DO') ?></button>
        </form>
    <?php endif ?>
</div>
    <?php
})();
