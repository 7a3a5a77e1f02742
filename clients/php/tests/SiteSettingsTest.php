<?php

use Integration\PaymentService\BadRequest;
use Integration\PaymentService\Client;
use PHPUnit\Framework\TestCase;

final class SiteSettingsTest extends TestCase
{
    public function testClientWithoutArgumentsAsksTheSite(): void
    {
        $this->expectException(BadRequest::class);
        $this->expectExceptionMessage('payment_service_url');
        new Client();
    }
}
