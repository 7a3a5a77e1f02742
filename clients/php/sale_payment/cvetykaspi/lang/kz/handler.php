<?php

// Bitrix's own packages call Kazakh kz.
require __DIR__ . '/../kk/handler.php';
