<?php

namespace Integration\PaymentService;

/**
 * After the service could not be reached, leave it alone for a moment: a buyer should not wait for it at every page.
 *
 * Only what can do without it looks here: reports, which the journal keeps, and configurations that are known.
 */
class Pause
{
    const SECONDS = 30;

    private $path;
    private $clock;
    private $until = 0;

    public function __construct(?string $folder, callable $clock)
    {
        $this->path = $folder === null ? null : $folder . '/pause.json';
        $this->clock = $clock;
    }

    public function isOn(): bool
    {
        $until = $this->path === null ? $this->until : (int) (Files::json($this->path)['until'] ?? 0);
        $left = $until - ($this->clock)();

        // A clock that was set back must not make a long pause of a short one.
        return $left > 0 && $left <= self::SECONDS;
    }

    public function begin(): void
    {
        $this->until = ($this->clock)() + self::SECONDS;
        if ($this->path !== null) {
            Files::write($this->path, json_encode(['until' => $this->until]));
        }
    }

    public function end(): void
    {
        $this->until = 0;
        if ($this->path !== null && is_file($this->path)) {
            @unlink($this->path);
        }
    }
}
