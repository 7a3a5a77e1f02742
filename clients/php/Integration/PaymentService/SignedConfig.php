<?php

namespace Integration\PaymentService;

/**
 * What the service said of one shop, as it is kept: its routing, or that the shop has none or is switched off.
 *
 * A routing is signed by the service with our API key (HMAC-SHA256), and is verified each time it is read: whoever can
 * write the cache cannot send a shop's money elsewhere. Ages are told by the signed valid_until, which lies FRESH_S after
 * the moment at which the service said it.
 */
final class SignedConfig
{
    /** Seconds for which a routing may be used without asking again. */
    const FRESH_S = 3600;
    /** Seconds for which the last known routing may be used while the service cannot be reached. */
    const USABLE_S = 604800;
    /** Seconds by which our clock may be behind the service's. */
    const CLOCKS_DIFFER_S = 300;

    /** @var array the routing; empty for a refusal */
    public $config;
    /** @var string '' or why the service refused: shop_not_configured, shop_inactive */
    public $refusal;
    /** @var string */
    public $detail;
    /** @var string */
    public $etag;
    /** @var int unix time at which the service said it */
    public $saidAt;
    /** @var bool whether Kaspi called it wrong since: then ask before using it */
    public $doubtful;

    private function __construct(array $config, string $refusal, string $detail, string $etag, int $saidAt, bool $doubtful)
    {
        $this->config = $config;
        $this->refusal = $refusal;
        $this->detail = $detail;
        $this->etag = $etag;
        $this->saidAt = $saidAt;
        $this->doubtful = $doubtful;
    }

    /** A routing that the service just said; null when it is not signed for this shop with this key. */
    public static function ofAnswer(int $shopId, array $config, string $etag, string $key): ?self
    {
        if (!self::isSigned($shopId, $config, $key)) {
            return null;
        }

        return new self($config, '', '', $etag, strtotime($config['valid_until']) - self::FRESH_S, false);
    }

    public static function ofRefusal(string $code, string $detail, int $now): self
    {
        return new self([], $code, $detail, '', $now, false);
    }

    /** What was kept; null when somebody else wrote it or changed it. */
    public static function ofEntry(int $shopId, array $entry, string $key): ?self
    {
        $doubtful = (bool) ($entry['doubtful'] ?? false);
        if (is_array($entry['config'] ?? null)) {
            $found = self::ofAnswer($shopId, $entry['config'], is_string($entry['etag'] ?? null) ? $entry['etag'] : '', $key);
            if ($found !== null) {
                $found->doubtful = $doubtful;
            }

            return $found;
        }
        $refusal = $entry['refusal'] ?? null;
        $saidAt = $entry['said_at'] ?? null;
        $signature = $entry['signature'] ?? null;
        if (!is_string($refusal) || !is_int($saidAt) || !is_string($signature)
            || !hash_equals(self::signatureOfRefusal($shopId, $refusal, $saidAt, $key), $signature)) {
            return null;
        }

        return new self([], $refusal, is_string($entry['detail'] ?? null) ? $entry['detail'] : '', '', $saidAt, false);
    }

    /** As the cache keeps it. */
    public function entry(int $shopId, string $key): array
    {
        if ($this->refusal === '') {
            return ['config' => $this->config, 'etag' => $this->etag, 'doubtful' => $this->doubtful];
        }

        return [
            'refusal' => $this->refusal,
            'detail' => $this->detail,
            'said_at' => $this->saidAt,
            'signature' => self::signatureOfRefusal($shopId, $this->refusal, $this->saidAt, $key),
        ];
    }

    /** Seconds since the service said it; never negative. */
    public function age(int $now): int
    {
        return max(0, $now - $this->saidAt);
    }

    /** Whether it is of a time to come: then a clock is wrong, and its age says nothing. */
    public function isFromTheFuture(int $now): bool
    {
        return $this->saidAt > $now + self::CLOCKS_DIFFER_S;
    }

    private static function isSigned(int $shopId, array $config, string $key): bool
    {
        $token = $config['device_token'] ?? null;
        $active = $config['is_active'] ?? null;
        $texts = [$config['organization_bin'] ?? null, $config['provider'] ?? null, $config['valid_until'] ?? null, $config['signature'] ?? null];
        if (($config['shop_id'] ?? null) !== $shopId || !is_bool($active) || !($token === null || is_string($token))
            || count(array_filter($texts, 'is_string')) !== count($texts) || strtotime($config['valid_until']) === false) {
            return false;
        }
        $said = [
            'payment-config', (string) $shopId, $config['organization_bin'], (string) $token, $active ? '1' : '0', $config['provider'],
            $config['valid_until'],
        ];

        return hash_equals(hash_hmac('sha256', implode("\n", $said), $key), $config['signature']);
    }

    private static function signatureOfRefusal(int $shopId, string $refusal, int $saidAt, string $key): string
    {
        return hash_hmac('sha256', implode("\n", ['payment-config-refusal', $shopId, $refusal, $saidAt]), $key);
    }
}
