<?php

namespace Integration\PaymentService;

/** Refused for good: getErrorCode(), and Kaspi's own getProviderCode(). */
class Rejected extends PaymentServiceException
{
}
