<?php

namespace Integration\PaymentService;

/** Nothing was sent: the same call may be made again. */
class Unavailable extends PaymentServiceException
{
}
