<?php
/** Waits for a change: with JavaScript by itself, without it every five seconds, and always at the press of a button. */

use Bitrix\Main\Localization\Loc;

?>
<div class="cvetykaspi__wait" role="status">
    <span class="cvetykaspi__spin" aria-hidden="true"></span>
    <span><?= Loc::getMessage('SALE_HPS_CVETYKASPI_WAITING') ?></span>
</div>
<a class="cvetykaspi__button cvetykaspi__button--quiet" href="<?= htmlspecialcharsbx($params['HERE']) ?>"><?= Loc::getMessage('SALE_HPS_CVETYKASPI_LOOK') ?></a>
<noscript><meta http-equiv="refresh" content="5;url=<?= htmlspecialcharsbx($params['HERE']) ?>"></noscript>
<script>
(function (ask, here) {
    function look() {
        fetch(ask, {credentials: 'same-origin', cache: 'no-store'}).then(function (answer) {
            return answer.json();
        }).then(function (said) {
            if (said.step === 'waiting') {
                setTimeout(look, 1000);
            } else if (said.step === 'away') {
                setTimeout(look, 5000);
            } else {
                location.replace(here);
            }
        }).catch(function () {
            setTimeout(look, 5000);
        });
    }
    if (window.fetch) {
        setTimeout(look, 1000);
    }
})(<?= json_encode($params['ASK'], JSON_HEX_TAG | JSON_HEX_AMP) ?>, <?= json_encode($params['HERE'], JSON_HEX_TAG | JSON_HEX_AMP) ?>);
</script>
