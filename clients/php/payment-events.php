<?php

// The address for the payment service's events. A site with orders of another kind sets $paymentServiceOrders before this line.
require __DIR__ . '/classes/Integration/PaymentService/webhook.php';
