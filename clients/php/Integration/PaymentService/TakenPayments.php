<?php

namespace Integration\PaymentService;

/**
 * Remembers what was taken of each payment of the service: its newest version, and the ids of events.
 *
 * One process at a time takes something of a payment. What is remembered is gone after KEPT_DAYS without a change.
 */
final class TakenPayments
{
    /** Ids of events that are remembered of each payment. */
    const REMEMBERED = 50;
    /** Days; the service tries to deliver an event for about three. */
    const KEPT_DAYS = 30;
    const REPEATED = 'repeated';
    const OLDER = 'older';

    private $folder;
    private $clock;

    /** @param string $folder the client's own folder */
    public function __construct(string $folder, ?callable $clock = null)
    {
        $this->folder = $folder . '/webhooks';
        $this->clock = $clock ?? 'time';
    }

    /**
     * Take something of a payment, unless it was taken or is older than what was.
     *
     * @param string $payment the service's id of it
     * @param string $event the id of an event; '' for what the service was asked for: that is news only with a newer version
     * @param callable $work takes whether anything is remembered of the payment, and returns a word
     * @return string|null REPEATED, OLDER or the word of the work; null when the folder cannot be written
     */
    public function take(string $payment, string $event, int $version, callable $work): ?string
    {
        $name = hash('sha256', $payment);

        return Files::locked(Files::lockOf($this->folder, $payment), true, function () use ($name, $event, $version, $work): ?string {
            $path = "$this->folder/$name.json";
            $kept = Files::json($path);
            $known = $kept ?? ['version' => 0, 'ids' => []];
            if ($event === '' ? $version <= $known['version'] : in_array($event, $known['ids'], true)) {
                return self::REPEATED;
            }
            $word = $version < $known['version'] ? self::OLDER : $work($kept !== null);
            // Written after the work: should this process die between, it comes again and finds it done.
            $known['version'] = max($version, $known['version']);
            $known['ids'] = array_slice(array_merge($known['ids'], $event === '' ? [] : [$event]), -self::REMEMBERED);
            if (!Files::write($path, json_encode($known))) {
                return null;
            }
            $this->forgetOld();

            return $word;
        });
    }

    /** Once a day. */
    private function forgetOld(): void
    {
        $mark = $this->folder . '/forgotten';
        $now = ($this->clock)();
        if (is_file($mark) && filemtime($mark) > $now - 86400) {
            return;
        }
        touch($mark);
        foreach (glob($this->folder . '/*.json') ?: [] as $path) {
            if (filemtime($path) < $now - self::KEPT_DAYS * 86400) {
                @unlink($path);
            }
        }
    }
}
