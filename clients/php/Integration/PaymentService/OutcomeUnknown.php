<?php

namespace Integration\PaymentService;

/** It may have been done or not: look it up before anybody asks for another one. */
class OutcomeUnknown extends PaymentServiceException
{
}
