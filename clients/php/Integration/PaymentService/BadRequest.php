<?php

namespace Integration\PaymentService;

/** The call, the key or a setting is wrong. */
class BadRequest extends PaymentServiceException
{
}
