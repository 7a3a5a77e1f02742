<?php
/**
 * What a page of the site does, as a test says it: reads {class, params, options, calls, clock_ahead_s} from standard
 * input, makes the calls on one object, and writes what each returned or threw.
 */

$asked = json_decode(stream_get_contents(STDIN), true);
$_SERVER['DOCUMENT_ROOT'] = getcwd() . '/www';
ini_set('error_log', getcwd() . '/php-errors.log');
set_error_handler(static function ($level, $message, $file, $line) {
    if (error_reporting() & $level) {
        throw new ErrorException($message, 0, $level, $file, $line);
    }
});
if ($asked['debug']) {
    define('DEBUG_PAYMENT_SERVICE', true);
}
$integration = $_SERVER['DOCUMENT_ROOT'] . '/local/classes/Integration/PaymentService';
require $integration . '/bitrix.php';
require $integration . '/include.php';

/** With what the old client kept protected open to tests. */
class OpenApiClient extends Integration\Kaspi\ApiClient
{
    public function getShopIdFromContext()
    {
        return parent::getShopIdFromContext();
    }
}

foreach ($asked['globals'] as $name => $value) {
    $GLOBALS[$name] = $value;
}
$_GET = $asked['get'];
$_SERVER += $asked['server'];
$ahead = $asked['clock_ahead_s'];
$asked['options']['clock'] = static function () use ($ahead) {
    return time() + $ahead;
};

$outcomes = [];
try {
    $object = $asked['class'] === 'ApiClient'
        ? new OpenApiClient($asked['params'])
        : new Integration\PaymentService\Client($asked['params']['url'], $asked['params']['key'], $asked['options']);
    foreach ($asked['calls'] as list($method, $arguments)) {
        $outcomes[] = said(static function () use ($object, $method, $arguments) {
            return $object->$method(...$arguments);
        });
    }
} catch (Throwable $problem) {
    $outcomes[] = said(static function () use ($problem) {
        throw $problem;
    });
}
echo json_encode($outcomes, JSON_THROW_ON_ERROR);

function said(callable $work): array
{
    try {
        return ['returned' => $work()];
    } catch (Integration\PaymentService\PaymentServiceException $problem) {
        return [
            'threw' => (new ReflectionClass($problem))->getShortName(),
            'message' => $problem->getMessage(),
            'code' => $problem->getErrorCode(),
            'provider_code' => $problem->getProviderCode(),
            'id' => $problem->getPaymentId(),
        ];
    } catch (Throwable $problem) {
        return ['threw' => get_class($problem), 'message' => (string) $problem];
    }
}
