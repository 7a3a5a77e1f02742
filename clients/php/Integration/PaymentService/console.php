<?php
/**
 * For people at the command line of the site's server:
 *
 *     php console.php set NAME              set an option of the module; its value is read from standard input
 *     php console.php check [SHOP_ID ...]   are settings, folder, service and the shops' routing in order?
 *     php console.php replay                send the reports that the journal keeps (for cron, every five minutes)
 *     php console.php journal               what waits, and what the service refused
 *     php console.php counts                what happened how often, by day
 *     php console.php seller PAYMENT_ID     whose money a payment of Bitrix is, by the rule of its payment system
 *     php console.php refund PAYMENT_ID SUM pay back a part, in tenge (the order form pays back the whole)
 *     php console.php looked                direct calls whose outcome nobody knew were looked up: they may be made again
 *     php console.php paid [DAYS]           mark what was paid in the last days (3) and what no event told (for cron, every hour)
 *     php console.php agents                have Bitrix's agents do both, on a site without cron
 *
 * DOCUMENT_ROOT tells where the site is: DOCUMENT_ROOT=/home/bitrix/www php console.php check 121038
 */

use Integration\PaymentService\Agents;
use Integration\PaymentService\Amount;
use Integration\PaymentService\BadRequest;
use Integration\PaymentService\BitrixOrders;
use Integration\PaymentService\Client;
use Integration\PaymentService\EqualCalls;
use Integration\PaymentService\Files;
use Integration\PaymentService\Log;
use Integration\PaymentService\MissedEvents;
use Integration\PaymentService\PaymentServiceException;
use Integration\PaymentService\SellerRule;
use Integration\PaymentService\SiteSettings;
use Integration\PaymentService\TakenPayments;

if (PHP_SAPI !== 'cli') {
    http_response_code(404);
    exit;
}
if (($_SERVER['DOCUMENT_ROOT'] ?? '') === '') {
    $_SERVER['DOCUMENT_ROOT'] = (string) getenv('DOCUMENT_ROOT');
}
require_once __DIR__ . '/bitrix.php';
require_once __DIR__ . '/include.php';

exit((static function (array $words): int {
    $settings = new SiteSettings();
    $good = true;
    $say = static function (bool $isGood, string $what) use (&$good): void {
        $good = $good && $isGood;
        echo $isGood ? 'ok    ' : 'WRONG ', $what, "\n";
    };
    $client = static function () use ($settings): Client {
        return $settings->client();
    };
    $payment = static function (string $id) {
        $found = BitrixOrders::paymentById($id);
        if ($found === null) {
            throw new BadRequest("Bitrix has no payment '$id' of the payment system " . BitrixOrders::HANDLER . '.');
        }

        return $found;
    };
    try {
        if (($words[0] ?? '') !== 'set' && Files::isOfAnotherUser((string) $settings->folder())) {
            throw new BadRequest('Run this as the user whose folder ' . $settings->folder() . ' is: files of another user would stop the site.');
        }
        switch ($words[0] ?? '') {
            case 'set':
                SiteSettings::set($words[1] ?? '', trim((string) fgets(STDIN)));
                echo $words[1], " is set\n";
                break;
            case 'check':
                $say(PHP_VERSION_ID >= 70400, 'PHP ' . PHP_VERSION);
                $say(extension_loaded('curl'), 'extension curl');
                $folder = $settings->folder();
                $say($folder !== null && Files::ready($folder), 'folder ' . ($folder ?? '(payment_service_folder is not set)') . ' can be written');
                $root = rtrim((string) $_SERVER['DOCUMENT_ROOT'], '/');
                $say($root === '' || strncmp($folder . '/', $root . '/', strlen($root) + 1) !== 0, 'the web server does not show it');
                $say($client()->healthCheck(), 'the service answers');
                foreach (array_slice($words, 1) as $shopId) {
                    try {
                        $config = $client()->getPaymentConfig($shopId);
                        $token = (string) ($config['device_token'] ?? '');
                        $isWhole = (bool) preg_match('/^[A-Za-z0-9-]{8,50}$/D', $token);
                        $told = $isWhole ? 'with device token' : ($token === '' ? 'WITHOUT device token' : 'device token masked: the key lacks secrets:read');
                        $say($isWhole, "shop $shopId: BIN {$config['organization_bin']}, {$config['trust']}, $told");
                    } catch (PaymentServiceException $problem) {
                        $say(false, "shop $shopId: " . $problem->getMessage());
                    }
                }
                break;
            case 'replay':
                $client()->replayJournal();
                // no break: what is left is what people want to know
            case 'journal':
                $journal = $client()->journal();
                echo $journal === null ? 0 : $journal->size(), ' waiting, ', $journal === null ? 0 : count($journal->refused()), " refused\n";
                foreach ($journal === null ? [] : $journal->refused() as $id => $kept) {
                    echo $id, ' ', json_encode($kept, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES), "\n";
                }
                break;
            case 'counts':
                echo json_encode((new Log($settings->folder()))->counts(), JSON_PRETTY_PRINT | JSON_FORCE_OBJECT), "\n";
                break;
            case 'seller':
                $say(true, 'shop ' . SellerRule::shopOf($payment($words[1] ?? '')));
                break;
            case 'refund':
                $ours = $payment($words[1] ?? '');
                // Nothing said, or what is no sum, must not become "everything", as Service::refund() reads 0.
                $result = $ours->getPaySystem()->refund($ours, Amount::tiyn($words[2] ?? '') / 100);
                $result = $result->isSuccess() ? $ours->getOrder()->save() : $result;
                $say($result->isSuccess(), implode(' ', $result->getErrorMessages()) ?: 'paid back');
                break;
            case 'looked':
                echo (new EqualCalls($settings->folder()))->forgetUnknown(), " calls may be made again\n";
                break;
            case 'paid':
                $days = $words[1] ?? (string) MissedEvents::DAYS;
                // Of what is older it is forgotten whether a person took the mark away.
                if (!preg_match('/^[1-9]\d?$/D', $days) || (int) $days > TakenPayments::KEPT_DAYS) {
                    throw new BadRequest('The days are a number from 1 to ' . TakenPayments::KEPT_DAYS . '.');
                }
                echo json_encode(MissedEvents::ofSite()->take(time() - (int) $days * 86400), JSON_FORCE_OBJECT), "\n";
                break;
            case 'agents':
                Agents::register();
                echo "Bitrix's agents send the reports and mark what was paid from now on\n";
                break;
            default:
                fwrite(STDERR, "php console.php set NAME | check [SHOP_ID ...] | replay | journal | counts | seller PAYMENT_ID | refund PAYMENT_ID SUM | looked | paid [DAYS] | agents\n");

                return 2;
        }
    } catch (PaymentServiceException $problem) {
        $say(false, $problem->getMessage());
    }

    return $good ? 0 : 1;
})(array_slice($argv, 1)));
