<?php

namespace Integration\PaymentService;

/**
 * Whose account a shop's money goes to, and whom we trust to say so.
 *
 *     fresh        the service says it now
 *     cached       it said so less than an hour ago
 *     last_known   it cannot be reached, and said so of this shop at most seven days ago
 *     table        it cannot be reached, and the table written at deployment has this shop as active
 *     default_bin  it cannot be reached, and the site insists on one BIN for every shop: logged as an error
 *
 * That a shop is inactive or not known is an answer and no outage: nothing below it is asked, and it is remembered for an
 * outage that comes later. No step ever gives one shop what is another's.
 */
class ShopConfigs
{
    private $ask;
    private $cache;
    private $pause;
    private $log;
    private $clock;
    private $key;
    private $cacheTime;
    private $tableFile;
    private $defaultBin;
    private $defaultDeviceToken;

    /**
     * @param callable $ask takes shop id and ETag, returns the Reply of a good answer (200 or 304), throws as Client does
     * @param string $key the API key; without one nothing is signed, so nothing is kept
     * @param array $options cache_time, shops_file, default_bin_for_every_shop, default_device_token
     */
    public function __construct(callable $ask, ConfigCache $cache, Pause $pause, Log $log, callable $clock, string $key, array $options)
    {
        $this->ask = $ask;
        $this->cache = $cache;
        $this->pause = $pause;
        $this->log = $log;
        $this->clock = $clock;
        $this->key = $key;
        $this->cacheTime = max(0, min(SignedConfig::FRESH_S, (int) ($options['cache_time'] ?? SignedConfig::FRESH_S)));
        $this->tableFile = (string) ($options['shops_file'] ?? '');
        $this->defaultBin = (string) ($options['default_bin_for_every_shop'] ?? '');
        $this->defaultDeviceToken = (string) ($options['default_device_token'] ?? '');
    }

    /**
     * The routing of a shop: shop_id, organization_bin, device_token, is_active, provider ..., and trust: which step it is of.
     *
     * @throws NotFound|Inactive when the service says so, or said so last
     * @throws Unavailable when nobody who is trusted knows
     */
    public function of(int $shopId): array
    {
        $now = ($this->clock)();
        $kept = $this->kept($shopId);
        $usable = $kept !== null && $kept->refusal === '' && $kept->age($now) <= SignedConfig::USABLE_S;
        $isYoung = $usable && $kept->age($now) < SignedConfig::FRESH_S && !$kept->doubtful && !$kept->isFromTheFuture($now);
        if ($isYoung && $kept->age($now) < $this->cacheTime) {
            return $this->said('cached', $shopId, $kept->config, ['age_s' => $kept->age($now)]);
        }
        if ($usable && $this->pause->isOn()) {
            $why = 'The payment service could not be reached a moment ago.';
        } else {
            try {
                return $this->said('fresh', $shopId, $this->freshly($shopId, $kept, $now));
            } catch (Unavailable $down) {
                $this->pause->begin();
                $why = $down->getMessage();
            }
        }

        if ($kept !== null && $kept->refusal !== '' && $kept->age($now) <= SignedConfig::USABLE_S) {
            $this->tell('refused', $shopId, ['last_known' => $kept->refusal]);
            throw self::refusal($kept->refusal, $kept->detail);
        }
        $facts = ['because' => $why];
        if ($usable) {
            $facts['age_s'] = $kept->age($now);

            return $this->said($isYoung ? 'cached' : 'last_known', $shopId, $kept->config, $facts);
        }
        $ofTable = $this->ofTable($shopId);
        if ($ofTable !== null) {
            return $this->said('table', $shopId, $ofTable, $facts);
        }
        if ($this->defaultBin !== '') {
            $config = [
                'shop_id' => $shopId,
                'organization_bin' => $this->defaultBin,
                'device_token' => $this->defaultDeviceToken === '' ? null : $this->defaultDeviceToken,
                'is_active' => true,
                'provider' => 'kaspi',
                'fallback' => true,
            ];
            $this->log->error('config.default_bin_used', ['shop_id' => $shopId, 'organization_bin' => $this->defaultBin]);

            return $this->said('default_bin', $shopId, $config, $facts);
        }
        $this->tell('none', $shopId, $facts);
        throw new Unavailable("Nobody can say whose account shop $shopId is paid to. $why Nothing was sent.");
    }

    /** Kaspi called this shop's routing wrong: ask the service before it is used again. */
    public function doubt(int $shopId): void
    {
        $kept = $this->kept($shopId);
        if ($kept !== null && $kept->refusal === '') {
            $kept->doubtful = true;
            $this->keep($shopId, $kept);
        }
    }

    private function freshly(int $shopId, ?SignedConfig $kept, int $now): array
    {
        try {
            $said = $this->asked($shopId, $kept);
            if ($said === null && $kept !== null && $kept->etag !== '') {
                $said = $this->asked($shopId, null);  // what we keep under that ETag is not what the service means by it
            }
        } catch (NotFound | Inactive $answer) {
            $this->keep($shopId, SignedConfig::ofRefusal($answer->getErrorCode(), $answer->getMessage(), $now));
            $this->tell('refused', $shopId, ['code' => $answer->getErrorCode()]);
            throw $answer;
        }
        if ($said === null) {
            throw new Unavailable('The payment service answered what is not signed with our key for this shop.');
        }
        $this->pause->end();
        if (($said['is_active'] ?? null) !== true) {
            throw new Inactive("The payment routing of shop $shopId is switched off.", ['code' => 'shop_inactive']);
        }

        return $said;
    }

    /** What the service says now, kept for later; null when it is not signed for us. */
    private function asked(int $shopId, ?SignedConfig $kept): ?array
    {
        $etag = $kept === null ? '' : $kept->etag;
        $reply = ($this->ask)($shopId, $etag);
        $config = $reply->json();
        if ($reply->status === 304) {
            $config = $etag === '' ? null : array_merge($kept->config, [
                'valid_until' => $reply->header('X-Config-Valid-Until'),
                'signature' => $reply->header('X-Config-Signature'),
            ]);
        }
        if ($this->key === '') {
            return ($config['shop_id'] ?? null) === $shopId && is_string($config['organization_bin'] ?? null) ? $config : null;
        }
        $said = $config === null ? null : SignedConfig::ofAnswer($shopId, $config, $reply->header('ETag'), $this->key);
        if ($said === null) {
            $this->log->error('config.not_signed', ['shop_id' => $shopId, 'http_status' => $reply->status]);

            return null;
        }
        $this->keep($shopId, $said);

        return $said->config;
    }

    private function kept(int $shopId): ?SignedConfig
    {
        $entry = $this->key === '' ? null : $this->cache->read($shopId);
        if ($entry === null) {
            return null;
        }
        $found = SignedConfig::ofEntry($shopId, $entry, $this->key);
        if ($found === null) {
            // A new API key does this too, once for each shop.
            $this->log->error('config.cache_altered', ['shop_id' => $shopId]);
            $this->log->count('config.cache_altered');
        }

        return $found;
    }

    private function keep(int $shopId, SignedConfig $said): void
    {
        if ($this->key !== '') {
            $this->cache->write($shopId, $said->entry($shopId, $this->key));
        }
    }

    private function ofTable(int $shopId): ?array
    {
        if ($this->tableFile === '') {
            return null;
        }
        $table = is_file($this->tableFile) ? (static function ($file) { return include $file; })($this->tableFile) : null;
        if (!is_array($table)) {
            $this->log->error('config.table_unreadable', ['file' => $this->tableFile]);

            return null;
        }
        $row = $table[$shopId] ?? null;
        if (!is_array($row) || ($row['is_active'] ?? null) !== true || !preg_match('/^\d{12}$/D', (string) ($row['organization_bin'] ?? ''))) {
            return null;
        }

        return ['shop_id' => $shopId] + $row;
    }

    private function said(string $trust, int $shopId, array $config, array $facts = []): array
    {
        $this->log->hide($config['device_token'] ?? null);
        $this->tell($trust, $shopId, $facts + ['organization_bin' => $config['organization_bin']]);

        return ['trust' => $trust] + $config;
    }

    private function tell(string $trust, int $shopId, array $facts): void
    {
        $this->log->count('config.' . $trust);
        $this->log->info('config.' . $trust, ['shop_id' => $shopId] + $facts);
    }

    private static function refusal(string $code, string $detail): PaymentServiceException
    {
        return $code === 'shop_inactive' ? new Inactive($detail, ['code' => $code]) : new NotFound($detail, ['code' => $code]);
    }
}
