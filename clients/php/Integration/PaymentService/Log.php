<?php

namespace Integration\PaymentService;

/**
 * The log kaspi_payment_service.log, one line per fact, and the counts of what happened how often.
 *
 * No secret is handed to it; as a last guard, known secrets and phones are blanked out of every line.
 * A log that cannot be written never stops a payment: its lines then go to PHP's own error log.
 */
class Log
{
    const FILE = 'kaspi_payment_service.log';
    const COUNTS = 'counts.json';
    const DAYS_COUNTED = 30;

    private $folder;
    private $debug;
    private $secrets = [];

    /** @param string|null $folder the client's own folder; null writes to PHP's error log and counts nothing */
    public function __construct(?string $folder, ?bool $debug = null)
    {
        $this->folder = $folder;
        $this->debug = $debug ?? (defined('DEBUG_PAYMENT_SERVICE') && constant('DEBUG_PAYMENT_SERVICE'));
    }

    /** Blank this out wherever it might appear. */
    public function hide(?string ...$secrets): void
    {
        foreach ($secrets as $secret) {
            if ($secret !== null && strlen($secret) >= 6) {
                $this->secrets[$secret] = '[hidden]';
            }
        }
    }

    public function info(string $event, array $facts = []): void
    {
        $this->write('INFO', $event, $facts);
    }

    public function error(string $event, array $facts = []): void
    {
        $this->write('ERROR', $event, $facts);
    }

    /** Only when DEBUG_PAYMENT_SERVICE is defined as true. */
    public function debug(string $event, array $facts = []): void
    {
        if ($this->debug) {
            $this->write('DEBUG', $event, $facts);
        }
    }

    /** One more of something, today. */
    public function count(string $what): void
    {
        if ($this->folder === null) {
            return;
        }
        $path = $this->folder . '/' . self::COUNTS;
        Files::locked($path . '.lock', true, function () use ($path, $what) {
            $counts = Files::json($path) ?? [];
            $today = gmdate('Y-m-d');
            $counts[$today][$what] = ($counts[$today][$what] ?? 0) + 1;
            ksort($counts);
            Files::write($path, json_encode(array_slice($counts, -self::DAYS_COUNTED, null, true), JSON_PRETTY_PRINT));
        });
    }

    /** How often what happened, by day (UTC). */
    public function counts(): array
    {
        return $this->folder === null ? [] : (Files::json($this->folder . '/' . self::COUNTS) ?? []);
    }

    /** A text without secrets and whole phones. */
    public function scrubbed(string $text): string
    {
        $text = strtr($text, $this->secrets);

        return preg_replace('/(?<![0-9A-Za-z])\+?[78]7\d{5}(\d{4})(?![0-9A-Za-z])/', '***$1', $text) ?? '';
    }

    private function write(string $level, string $event, array $facts): void
    {
        $told = $facts === [] ? '' : ' ' . json_encode(
            $facts,
            JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE | JSON_PARTIAL_OUTPUT_ON_ERROR
        );
        $line = $this->scrubbed($level . ' ' . $event . $told);
        if ($this->folder !== null && Files::ready($this->folder)) {
            $path = $this->folder . '/' . self::FILE;
            $isNew = !is_file($path);
            if (@file_put_contents($path, gmdate('Y-m-d\TH:i:s\Z ') . $line . "\n", FILE_APPEND | LOCK_EX) !== false) {
                if ($isNew) {
                    @chmod($path, 0600);
                }

                return;
            }
        }
        error_log('payment-service: ' . $line);
    }
}
