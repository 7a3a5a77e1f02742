<?php

namespace Integration\PaymentService;

/**
 * Reports that the service does not have yet: one file each, kept until the service took it.
 *
 * A report is written here before it is sent, and an operation that moves money is written here before it is begun, so
 * that a page that dies in the middle leaves a trace. The name of the file is the report's id; the service takes a report
 * once, however often it is sent under its id. What the service refuses for good is kept in the folder refused.
 */
class Journal
{
    /** Longer than a call to Kaspi with all its tries: after this, whoever began an operation is no more. */
    const UNDER_WAY_S = 60;

    private $folder;
    private $clock;

    public function __construct(string $folder, callable $clock)
    {
        $this->folder = $folder . '/journal';
        $this->clock = $clock;
    }

    /** An id for a report: 35 visible characters that sort by time, to the microsecond. */
    public static function newId(): string
    {
        $now = microtime(true);

        return gmdate('Ymd\THis', (int) $now) . sprintf('.%06d-', (int) (fmod($now, 1) * 1000000)) . bin2hex(random_bytes(6));
    }

    /**
     * Keep a report.
     *
     * @param bool $underWay the operation has only begun: nobody sends this before UNDER_WAY_S have passed
     * @throws Unavailable when it cannot be written
     */
    public function keep(string $id, array $report, bool $underWay = false): void
    {
        $notBefore = ($this->clock)() + ($underWay ? self::UNDER_WAY_S : 0);
        $text = json_encode(['not_before' => $notBefore, 'report' => $report], JSON_UNESCAPED_UNICODE | JSON_INVALID_UTF8_SUBSTITUTE);
        if (!Files::write($this->path($id), $text)) {
            throw new Unavailable('The journal cannot be written: check that ' . $this->folder . ' belongs to the user of the site.');
        }
    }

    /** The service has it. */
    public function drop(string $id): void
    {
        @unlink($this->path($id));
    }

    /** The service will never take it: keep it where people look. */
    public function refuse(string $id, string $reason): void
    {
        $kept = Files::json($this->path($id));
        if ($kept !== null && Files::write($this->folder . '/refused/' . $id . '.json', Http::encode(['reason' => $reason] + $kept))) {
            $this->drop($id);
        }
    }

    /** @return array<string, array> the reports that may be sent now, by id, oldest first */
    public function waiting(): array
    {
        $now = ($this->clock)();
        $waiting = [];
        foreach ($this->all('') as $id => $kept) {
            if (($kept['not_before'] ?? 0) <= $now) {
                $waiting[$id] = $kept['report'] ?? [];
            }
        }

        return $waiting;
    }

    /** @return array<string, array> every report that the service refused, with the reason */
    public function refused(): array
    {
        return $this->all('/refused');
    }

    /** How many reports the service does not have yet. */
    public function size(): int
    {
        return count($this->paths(''));
    }

    /**
     * Hand every waiting report to a function that sends it; only one process at a time does this.
     *
     * @param callable $send takes id and report; returns false to stop
     * @return int how many were sent
     */
    public function replay(callable $send): int
    {
        $sent = Files::locked($this->folder . '/lock', false, function () use ($send) {
            $sent = 0;
            foreach ($this->waiting() as $id => $report) {
                if (!$send($id, $report)) {
                    break;
                }
                ++$sent;
            }

            return $sent;
        });

        return (int) $sent;
    }

    private function all(string $below): array
    {
        $found = [];
        foreach ($this->paths($below) as $path) {
            $kept = Files::json($path);
            if ($kept !== null) {
                $found[basename($path, '.json')] = $kept;
            }
        }

        return $found;
    }

    private function paths(string $below): array
    {
        return glob($this->folder . $below . '/*.json') ?: [];
    }

    private function path(string $id): string
    {
        if (!preg_match('/^[A-Za-z0-9._-]{1,64}$/D', $id)) {
            throw new BadRequest('The id of a report is 1 to 64 letters, digits, dots and dashes.');
        }

        return $this->folder . '/' . $id . '.json';
    }
}
