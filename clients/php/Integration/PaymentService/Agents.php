<?php

namespace Integration\PaymentService;

/**
 * For Bitrix's agents, on a site that has no cron: CAgent runs the text and keeps what it returns as the next one.
 *
 *     \Integration\PaymentService\Agents::replay();
 *     \Integration\PaymentService\Agents::paid();
 */
final class Agents
{
    const EVERY_S = 300;
    const PAID_EVERY_S = 3600;

    /** Send the reports that the journal keeps. An agent that throws is never run again, so this one does not throw. */
    public static function replay(): string
    {
        return self::run('replay', static function (): void {
            (new Client())->replayJournal();
        });
    }

    /** Mark what was paid and what no event told. */
    public static function paid(): string
    {
        return self::run('paid', static function (): void {
            MissedEvents::ofSite()->take(time() - MissedEvents::DAYS * 86400);
        });
    }

    /** Have Bitrix run them; once, however often it is called. */
    public static function register(): void
    {
        \CAgent::AddAgent('\\' . self::class . '::replay();', '', 'N', self::EVERY_S);
        \CAgent::AddAgent('\\' . self::class . '::paid();', '', 'N', self::PAID_EVERY_S);
    }

    private static function run(string $agent, callable $work): string
    {
        try {
            $work();
        } catch (\Throwable $problem) {
            (new Log((new SiteSettings())->folder()))->error('agent.failed', ['agent' => $agent, 'because' => $problem->getMessage()]);
        }

        return '\\' . self::class . "::$agent();";
    }
}
