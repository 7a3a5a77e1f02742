<?php

namespace Integration\PaymentService;

/** The shop is switched off. */
class Inactive extends PaymentServiceException
{
}
