<?php

use Integration\PaymentService\BadRequest;
use Integration\PaymentService\Client;
use Integration\PaymentService\ConfigCache;
use Integration\PaymentService\Inactive;
use Integration\PaymentService\NotFound;
use Integration\PaymentService\Unavailable;

final class ShopConfigsTest extends SiteTest
{
    public function testAnswerIsUsedForAnHourWithoutAsking(): void
    {
        $this->wire->willSay($this->config());
        $this->assertSame('fresh', $this->trust());
        $this->now += 3599;
        $this->assertSame('cached', $this->trust());
        $this->assertCount(1, $this->wire->requests);
    }

    public function testAfterAnHourItIsAskedForByItsEtagAndRenewedWithoutABody(): void
    {
        $this->wire->willSay($this->config(), 200, ['etag' => '"abc"']);
        $this->trust();
        $this->now += 3601;
        $renewed = $this->config();
        $this->wire->willSay('', 304, [
            'etag' => '"abc"',
            'x-config-valid-until' => $renewed['valid_until'],
            'x-config-signature' => $renewed['signature'],
        ]);
        $this->assertSame('fresh', $this->trust());
        $this->assertSame('"abc"', $this->wire->requests[1]['headers']['If-None-Match']);
        $this->now += 3000;
        $this->assertSame('cached', $this->trust());
    }

    public function testNotModifiedOfSomethingElseIsNotBelieved(): void
    {
        $this->wire->willSay($this->config(), 200, ['etag' => '"abc"']);
        $this->trust();
        $this->now += 3601;
        $other = $this->config(['organization_bin' => '210440028324']);
        $this->wire->willSay('', 304, ['x-config-valid-until' => $other['valid_until'], 'x-config-signature' => $other['signature']]);
        $this->wire->willSay($other, 200);
        $this->assertSame('210440028324', $this->client()->getPaymentConfig(self::SHOP)['organization_bin']);
        $this->assertArrayNotHasKey('If-None-Match', $this->wire->requests[2]['headers']);
    }

    public function testCacheTimeOfTheSiteIsObeyedAndNeverLongerThanAnHour(): void
    {
        $this->wire->willSay($this->config())->willSay($this->config());
        $this->trust(['cache_time' => 600]);
        $this->now += 601;
        $this->assertSame('fresh', $this->trust(['cache_time' => 600]));
        $this->now += 3601;
        $this->wire->willSay($this->config());
        $this->assertSame('fresh', $this->trust(['cache_time' => 86400]));
    }

    /** @dataProvider alterations */
    public function testAlteredEntryIsNoticed(string $name, $value): void
    {
        $this->wire->willSay($this->config());
        $this->trust();
        $cache = new ConfigCache($this->folder);
        $entry = $cache->read(self::SHOP);
        $entry['config'][$name] = $value;
        $cache->write(self::SHOP, $entry);
        $this->wire->willFail(false, true);
        try {
            $this->trust();
            $this->fail('it was believed');
        } catch (Unavailable $nobody) {
            $this->assertStringContainsString('config.cache_altered', $this->log());
        }
    }

    public function alterations(): array
    {
        return [
            ['organization_bin', '210440028324'],
            ['device_token', 'another-token'],
            ['device_token', null],
            ['is_active', false],
            ['provider', 'halyk'],
            ['valid_until', '2036-01-01T00:00:00Z'],
            ['signature', str_repeat('0', 64)],
            ['signature', null],
            ['shop_id', (string) self::SHOP],
        ];
    }

    public function testAnswerThatIsSignedForAnotherShopOrKeyIsAnOutage(): void
    {
        foreach ([$this->config(['shop_id' => 576631]), $this->config([], 'ps_another-key')] as $answer) {
            $this->wire->willSay($answer);
            try {
                $this->trust();
                $this->fail('it was believed');
            } catch (Unavailable $nobody) {
                $this->assertStringContainsString('not signed', $nobody->getMessage());
            }
            $this->now += 60;
        }
    }

    public function testLastKnownAnswerIsUsedForSevenDaysAndNoLonger(): void
    {
        $this->wire->willSay($this->config());
        $this->trust();
        $said = $this->now;
        foreach ([3600, 604800] as $age) {
            $this->now = $said + $age;
            $this->wire->willFail(true);
            $this->assertSame('last_known', $this->trust());
        }
        $this->now = $said + 604801;
        $this->wire->willFail(true);
        $this->expectException(Unavailable::class);
        $this->trust();
    }

    public function testAfterAnOutageTheServiceIsLeftAloneForAMoment(): void
    {
        $this->wire->willSay($this->config());
        $this->trust();
        $this->now += 4000;
        $this->wire->willFail(true);
        $this->trust();
        $this->now += 29;
        $this->assertSame('last_known', $this->trust());
        $this->assertCount(2, $this->wire->requests);
        $this->now += 2;
        $this->wire->willSay($this->config());
        $this->assertSame('fresh', $this->trust());
    }

    public function testClockThatIsWrongMakesNobodyTrustAnEntryLonger(): void
    {
        $this->wire->willSay($this->config());
        $this->trust();
        $this->now -= 1000;
        $this->wire->willSay($this->config());
        $this->assertSame('fresh', $this->trust());
    }

    /** @dataProvider refusals */
    public function testRefusalIsAnAnswerAndIsRememberedInAnOutage(string $code, int $status, string $kind): void
    {
        $options = ['shops_file' => $this->table(true), 'default_bin_for_every_shop' => '891027350515'];
        $this->wire->willSayNo($code, $status)->willFail(true);
        foreach ([1, 2] as $time) {
            try {
                $this->trust($options);
                $this->fail('it was let through');
            } catch (NotFound | Inactive $answer) {
                $this->assertInstanceOf($kind, $answer);
            }
        }
    }

    public function refusals(): array
    {
        return [['shop_not_configured', 404, NotFound::class], ['shop_inactive', 403, Inactive::class]];
    }

    public function testRememberedRefusalThatSomebodyElseWroteIsIgnored(): void
    {
        (new ConfigCache($this->folder))->write(self::SHOP, [
            'refusal' => 'shop_inactive', 'detail' => 'no', 'said_at' => $this->now, 'signature' => str_repeat('0', 64),
        ]);
        $this->wire->willSay($this->config());
        $this->assertSame('fresh', $this->trust());
    }

    public function testWrongKeyIsNoOutage(): void
    {
        $this->wire->willSayNo('authentication_required', 401);
        $this->expectException(BadRequest::class);
        $this->trust(['default_bin_for_every_shop' => '891027350515']);
    }

    public function testTableIsTrustedOnlyForItsActiveShops(): void
    {
        $this->wire->willFail(false, true)->willFail(false, true);
        $this->assertSame('table', $this->trust(['shops_file' => $this->table(true)]));
        $this->expectException(Unavailable::class);
        $this->trust(['shops_file' => $this->table(false)]);
    }

    public function testTableThatIsNotThereIsLogged(): void
    {
        $this->wire->willFail(false, true);
        try {
            $this->trust(['shops_file' => $this->folder . '/nothing.php']);
            $this->fail('it was believed');
        } catch (Unavailable $nobody) {
            $this->assertStringContainsString('ERROR config.table_unreadable', $this->log());
        }
    }

    public function testRoutingThatKaspiCalledWrongIsAskedForBeforeItIsUsedAgain(): void
    {
        $this->wire->willSay($this->config(), 200, ['etag' => '"a"'])->willSay($this->config(['organization_bin' => '210440028324']));
        $this->trust();
        $this->client()->doubtPaymentConfig(self::SHOP);
        $this->assertSame('210440028324', $this->client()->getPaymentConfig(self::SHOP)['organization_bin']);
        $this->assertSame('cached', $this->trust());
    }

    public function testWithoutAKeyNothingIsKept(): void
    {
        $unsigned = ['signature' => null] + $this->config();
        $this->wire->willSay($unsigned)->willSay($unsigned);
        foreach ([1, 2] as $time) {
            $this->assertSame('fresh', $this->client([], null)->getPaymentConfig(self::SHOP)['trust']);
        }
    }

    public function testBitrixCacheKeepsItWhereThereIsNoFolder(): void
    {
        Bitrix\Main\Data\Cache::$now = $this->clock();
        $this->wire->willSay($this->config());
        $this->trust(['folder' => null]);
        $this->assertSame('cached', $this->trust(['folder' => null]));
        $this->now += 3601;
        $this->wire->willFail(true);
        $this->assertSame('last_known', $this->trust(['folder' => null]));
    }

    public function testBitrixCacheKeepsItWhereTheFolderCannotBeWritten(): void
    {
        Bitrix\Main\Data\Cache::$now = $this->clock();
        file_put_contents($this->folder, 'a file where the folder should be');
        $this->wire->willSay($this->config());
        $this->trust();
        $this->assertSame('cached', $this->trust());
    }

    public function testFilesAreForTheSitesUserOnlyAndTheTokenIsInNoLog(): void
    {
        $this->wire->willSay($this->config());
        $this->trust();
        $this->assertSame(0600, fileperms($this->folder . '/config/' . self::SHOP . '.json') & 0777);
        $this->assertSame(0700, fileperms($this->folder . '/config') & 0777);
        $this->assertSame(0600, fileperms($this->folder . '/kaspi_payment_service.log') & 0777);
        $this->assertStringNotContainsString(self::TOKEN, $this->log());
    }

    private function trust(array $options = []): string
    {
        return $this->client($options)->getPaymentConfig((string) self::SHOP)['trust'];
    }

    private function client(array $options = [], ?string $key = self::KEY): Client
    {
        return new Client('https://service.example', $key, $options + ['http' => $this->wire, 'clock' => $this->clock(), 'folder' => $this->folder]);
    }

    private function table(bool $active): string
    {
        $path = $_SERVER['DOCUMENT_ROOT'] . '/shops-' . (int) $active . '.php';
        file_put_contents($path, '<?php return ' . var_export([self::SHOP => [
            'organization_bin' => self::BIN, 'device_token' => self::TOKEN, 'is_active' => $active, 'provider' => 'kaspi', 'name' => "O'Neil",
        ]], true) . ';');

        return $path;
    }
}
