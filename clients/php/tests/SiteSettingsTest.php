<?php

use Integration\PaymentService\BadRequest;
use Integration\PaymentService\Client;
use Integration\PaymentService\Files;
use Integration\PaymentService\SiteSettings;

final class SiteSettingsTest extends SiteTest
{
    /** With another word every order would be another one, and be asked for once more. */
    public function testWordOfTheInstallationStaysOnceAPaymentWasAskedFor(): void
    {
        SiteSettings::set('payment_service_folder', $this->folder);
        SiteSettings::set('payment_service_site', 'a');
        Files::locked($this->folder . '/checkout/aa.lock', true, static function (): void {});
        SiteSettings::set('payment_service_site', 'a');
        try {
            SiteSettings::set('payment_service_site', 'b');
            $this->fail('it was changed');
        } catch (BadRequest $refused) {
            $this->assertSame('a', (new SiteSettings())->text('payment_service_site'));
        }
    }

    public function testClientWithoutArgumentsAsksTheSite(): void
    {
        $this->expectException(BadRequest::class);
        $this->expectExceptionMessage('payment_service_url');
        new Client();
    }
}
