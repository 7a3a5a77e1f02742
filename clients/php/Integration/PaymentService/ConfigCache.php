<?php

namespace Integration\PaymentService;

/**
 * Keeps what the service said of each shop: in the client's own folder, or in Bitrix's cache where that cannot be written.
 *
 * It only keeps. Whether an entry may be used, and until when, is in the entry itself and signed: see SignedConfig.
 * Entries hold device tokens, so files are readable by the site's user only.
 */
class ConfigCache
{
    const BITRIX_FOLDER = '/payment_service_config';

    private $folder;
    private $memory = [];

    /** @param string|null $folder the client's own folder; null for Bitrix's cache; without Bitrix this process alone remembers */
    public function __construct(?string $folder)
    {
        $this->folder = $folder !== null && Files::ready($folder) ? $folder . '/config' : null;
    }

    public function read(int $shopId): ?array
    {
        if ($this->folder !== null) {
            return Files::json($this->path($shopId));
        }
        $cache = self::bitrix();
        if ($cache === null) {
            return $this->memory[$shopId] ?? null;
        }
        $found = $cache->initCache(SignedConfig::USABLE_S, self::name($shopId), self::BITRIX_FOLDER) ? $cache->getVars() : null;

        return is_array($found) ? $found : null;
    }

    public function write(int $shopId, array $entry): void
    {
        if ($this->folder !== null) {
            Files::write($this->path($shopId), Http::encode($entry));

            return;
        }
        $this->memory[$shopId] = $entry;
        $cache = self::bitrix();
        if ($cache !== null) {
            $cache->clean(self::name($shopId), self::BITRIX_FOLDER);
            if ($cache->startDataCache(SignedConfig::USABLE_S, self::name($shopId), self::BITRIX_FOLDER)) {
                $cache->endDataCache($entry);
            }
        }
    }

    private function path(int $shopId): string
    {
        return $this->folder . '/' . $shopId . '.json';
    }

    private static function name(int $shopId): string
    {
        return 'payment_service_config_' . $shopId;
    }

    private static function bitrix()
    {
        return class_exists('Bitrix\Main\Data\Cache') ? \Bitrix\Main\Data\Cache::createInstance() : null;
    }
}
