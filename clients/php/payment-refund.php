<?php

// The page on which a manager pays back a part of a payment; the order form has a button for it.
require __DIR__ . '/classes/Integration/PaymentService/refund.php';
