<?php

namespace Integration\PaymentService;

/** The service does not know this shop or payment. */
class NotFound extends PaymentServiceException
{
}
