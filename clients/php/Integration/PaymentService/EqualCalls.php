<?php

namespace Integration\PaymentService;

/**
 * Calls that move money and that Kaspi would do twice: an equal one within a minute is the same one, as on the service.
 *
 * A double click, a reload and two tabs ask for the same. One at a time is made; the others are told what came of it. What
 * was refused, or not sent, may be asked for at once. What nobody knows the outcome of is not made again for a day, unless a
 * person has looked (console.php looked). Files are named by a digest and hold Kaspi's answer; what a crash of the machine left of
 * one holds none, so that nobody knows the outcome.
 */
final class EqualCalls
{
    const WINDOW_S = 60;
    /** As long as an invoice may wait for its buyer. */
    const UNKNOWN_S = 86400;

    private $folder;

    /** @param string|null $folder the client's own folder; null: nothing is remembered */
    public function __construct(?string $folder)
    {
        $this->folder = $folder === null ? null : $folder . '/equal';
    }

    /**
     * Make a call, unless its equal was made.
     *
     * @param string $words what makes two calls equal
     * @param callable $call returns an array whose outcome is accepted or rejected, or throws
     * @throws OutcomeUnknown when nobody knows what came of its equal
     * @throws Unavailable when the folder cannot be written; nothing was sent
     */
    public function once(string $words, callable $call): array
    {
        if ($this->folder === null) {
            return $call();
        }
        $name = hash('sha256', $words);
        $answer = Files::locked(Files::lockOf($this->folder, $words), true, function () use ($name, $call): ?array {
            $this->forgetOld();
            $path = "$this->folder/$name.json";
            $kept = Files::json($path);
            if (isset($kept['answer'])) {
                return $kept['answer'];
            }
            if (is_file($path)) {
                throw new OutcomeUnknown(
                    "The same was asked for before, and it is not known whether Kaspi did it: look it up in the seller's Kaspi Pay. "
                    . 'After that, "php console.php looked" lets it be asked for again.'
                );
            }
            // Before the call: the page may die in it.
            if (!Files::write($path, '{"answer":null}')) {
                return null;
            }
            try {
                $answer = $call();
            } catch (OutcomeUnknown $unknown) {
                touch($path);
                throw $unknown;
            } catch (PaymentServiceException $notDone) {
                @unlink($path);
                throw $notDone;
            }
            if ($answer['outcome'] === 'accepted') {
                Files::write($path, Http::encode(['answer' => $answer]));
            } else {
                @unlink($path);
            }

            return $answer;
        });
        if ($answer === null) {
            throw new Unavailable('The folder of the payment service\'s client cannot be written. Nothing was sent.');
        }

        return $answer;
    }

    /**
     * A person has looked up what nobody knew: it may be asked for again.
     *
     * @return int how many calls it was
     */
    public function forgetUnknown(): int
    {
        $unknown = $this->folder === null ? [] : array_filter($this->paths(), [self::class, 'isUnknown']);

        return count(array_filter($unknown, 'unlink'));
    }

    private function forgetOld(): void
    {
        clearstatcache();
        foreach ($this->paths() as $path) {
            if (@filemtime($path) < time() - (self::isUnknown($path) ? self::UNKNOWN_S : self::WINDOW_S)) {
                @unlink($path);
            }
        }
    }

    private static function isUnknown(string $path): bool
    {
        return !isset(Files::json($path)['answer']);
    }

    private function paths(): array
    {
        return glob($this->folder . '/*.json') ?: [];
    }
}
