<?php
/** The pages' own style, once on a page: a payment page of Bitrix has no head of its own. */

if (!defined('CVETYKASPI_STYLE')) {
    define('CVETYKASPI_STYLE', true);
    ?>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
.cvetykaspi { box-sizing: border-box; max-width: 30rem; margin: 1rem auto; padding: 1.5rem; border: 1px solid #dfe3e8; border-radius: 14px;
    background: #fff; color: #1d2229; font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
.cvetykaspi * { box-sizing: border-box; }
.cvetykaspi h2 { margin: 0 0 .25rem; font-size: 1.25rem; line-height: 1.25; }
.cvetykaspi p { margin: 0 0 1rem; }
.cvetykaspi form, .cvetykaspi > :last-child { margin-bottom: 0; }
.cvetykaspi__sum { font-size: 1.75rem; font-weight: 700; letter-spacing: -.01em; }
.cvetykaspi__hint { color: #5a6470; font-size: .875rem; }
.cvetykaspi__label { display: block; margin: 0 0 .375rem; font-weight: 600; }
.cvetykaspi__input { width: 100%; min-height: 3rem; margin: 0 0 .375rem; padding: 0 .875rem; border: 1px solid #8b95a1; border-radius: 10px;
    background: #fff; color: inherit; font: inherit; font-size: 1.125rem; }
.cvetykaspi__button { display: block; width: 100%; min-height: 3rem; padding: .75rem 1rem; border: 1px solid #c8240f; border-radius: 10px;
    background: #d9290f; color: #fff; font: inherit; font-weight: 600; text-align: center; text-decoration: none; cursor: pointer; }
.cvetykaspi__button:hover { background: #bf230c; color: #fff; }
.cvetykaspi__button--quiet { border-color: #8b95a1; background: #fff; color: #1d2229; }
.cvetykaspi__button--quiet:hover { background: #f3f5f7; color: #1d2229; }
.cvetykaspi__input:focus-visible, .cvetykaspi__button:focus-visible { outline: 3px solid #2f6fed; outline-offset: 2px; }
.cvetykaspi__or { display: flex; align-items: center; gap: .75rem; margin: 1rem 0; color: #5a6470; font-size: .875rem; }
.cvetykaspi__or::before, .cvetykaspi__or::after { content: ""; flex: 1; border-top: 1px solid #dfe3e8; }
.cvetykaspi__note { margin: 0 0 1rem; padding: .75rem .875rem; border-radius: 10px; background: #fff4e0; color: #5c3b00; }
.cvetykaspi__note--good { background: #e6f6ea; color: #14532d; }
.cvetykaspi__qr { display: block; width: 100%; max-width: 15rem; height: auto; margin: 0 auto 1rem; image-rendering: pixelated; }
.cvetykaspi__wait { display: flex; align-items: center; gap: .75rem; margin: 1rem 0; }
.cvetykaspi__spin { flex: none; width: 1.5rem; height: 1.5rem; border: 3px solid #f3d1cc; border-top-color: #d9290f; border-radius: 50%;
    animation: cvetykaspi-spin 1s linear infinite; }
@keyframes cvetykaspi-spin { to { transform: rotate(360deg); } }
@media (prefers-reduced-motion: reduce) { .cvetykaspi__spin { animation: none; } }
@media (max-width: 26rem) { .cvetykaspi { margin: 0; padding: 1.25rem 1rem; border-left: 0; border-right: 0; border-radius: 0; } }
</style>
    <?php
}
