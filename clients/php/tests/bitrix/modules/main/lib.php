<?php
/** The module main, as far as the payment system handler meets it. See include/prolog_before.php. */

namespace Bitrix\Main {
    class Loader
    {
        public static $included = [];

        public static function includeModule($moduleName)
        {
            self::$included[$moduleName] = true;

            return true;
        }
    }

    class Error
    {
        private $message;
        private $code;

        public function __construct($message, $code = 0, $customData = null)
        {
            $this->message = $message;
            $this->code = $code;
        }

        public function getMessage()
        {
            return $this->message;
        }

        public function getCode()
        {
            return $this->code;
        }
    }

    class Result
    {
        /** @var Error[] */
        private $errors = [];

        public function isSuccess()
        {
            return $this->errors === [];
        }

        public function addError(Error $error)
        {
            $this->errors[] = $error;

            return $this;
        }

        public function addErrors(array $errors)
        {
            array_map([$this, 'addError'], $errors);

            return $this;
        }

        public function getErrors()
        {
            return $this->errors;
        }

        public function getErrorMessages()
        {
            return array_map(static function (Error $error) {
                return $error->getMessage();
            }, $this->errors);
        }
    }

    class Event
    {
        private $type;
        private $parameters;
        private $results = [];

        public function __construct($moduleId, $type, $parameters = [], $filter = null)
        {
            $this->type = $type;
            $this->parameters = $parameters;
        }

        public function getParameter($key)
        {
            return $this->parameters[$key] ?? null;
        }

        public function send($sender = null)
        {
            \BitrixDouble::add('events.json', $this->type);
            foreach (EventManager::getInstance()->findEventHandlers('sale', $this->type) as $callback) {
                $result = $callback($this);
                if ($result instanceof EventResult) {
                    $this->results[] = $result;
                }
            }
        }

        public function getResults()
        {
            return $this->results;
        }
    }

    class EventResult
    {
        const SUCCESS = 1;
        const ERROR = 2;
        private $type;
        private $parameters;

        public function __construct($type, $parameters = null, $moduleId = null, $handler = null)
        {
            $this->type = $type;
            $this->parameters = $parameters;
        }

        public function getType()
        {
            return $this->type;
        }

        public function getParameters()
        {
            return $this->parameters;
        }
    }

    /** The sites of this installation. */
    class SiteTable
    {
        public static function getList(array $parameters = [])
        {
            $rows = [['LID' => 's1'], ['LID' => 's2']];

            return new class($rows) {
                private $rows;

                public function __construct(array $rows)
                {
                    $this->rows = $rows;
                }

                public function fetchAll()
                {
                    return $this->rows;
                }
            };
        }
    }

    class EventManager
    {
        private static $instance;
        private $handlers = [];

        public static function getInstance()
        {
            self::$instance = self::$instance ?? new self();

            return self::$instance;
        }

        public function addEventHandler($fromModuleId, $eventType, $callback, $includeFile = false, $sort = 100)
        {
            $this->handlers[$fromModuleId][$eventType][] = $callback;

            return count($this->handlers[$fromModuleId][$eventType]);
        }

        public function addEventHandlerCompatible($fromModuleId, $eventType, $callback, $includeFile = false, $sort = 100)
        {
            return $this->addEventHandler($fromModuleId, $eventType, $callback, $includeFile, $sort);
        }

        public function findEventHandlers($eventModuleId, $eventType, ?array $filter = null)
        {
            return $this->handlers[$eventModuleId][$eventType] ?? [];
        }
    }

    abstract class Request implements \ArrayAccess
    {
        protected $values = [];

        public function get($name)
        {
            return $this->values[$name] ?? null;
        }

        public function toArray()
        {
            return $this->values;
        }

        #[\ReturnTypeWillChange]
        public function offsetExists($offset)
        {
            return isset($this->values[$offset]);
        }

        #[\ReturnTypeWillChange]
        public function offsetGet($offset)
        {
            return $this->values[$offset] ?? null;
        }

        #[\ReturnTypeWillChange]
        public function offsetSet($offset, $value)
        {
            throw new \LogicException('a request is read only');
        }

        #[\ReturnTypeWillChange]
        public function offsetUnset($offset)
        {
            throw new \LogicException('a request is read only');
        }
    }

    class HttpRequest extends Request
    {
        private $post;
        private $server;

        public function __construct(array $query, array $post, array $server)
        {
            $this->values = array_merge($query, $post);
            $this->post = $post;
            $this->server = $server;
        }

        public function isPost()
        {
            return ($this->server['REQUEST_METHOD'] ?? '') === 'POST';
        }

        public function getPost($name)
        {
            return $this->post[$name] ?? null;
        }

        public function getRequestUri()
        {
            return $this->server['REQUEST_URI'] ?? '';
        }
    }

    class Application
    {
        private static $instance;
        private $request;

        public static function getInstance()
        {
            self::$instance = self::$instance ?? new self();

            return self::$instance;
        }

        public static function getDocumentRoot()
        {
            return rtrim($_SERVER['DOCUMENT_ROOT'], '/');
        }

        public function getContext()
        {
            return $this;
        }

        public function getRequest()
        {
            $this->request = $this->request ?? new HttpRequest($_GET, $_POST, $_SERVER);

            return $this->request;
        }
    }
}

namespace Bitrix\Main\Entity {
    class Result extends \Bitrix\Main\Result
    {
    }
}

namespace Bitrix\Main\Type {
    class Date
    {
        public $text;

        public function __construct()
        {
            $this->text = gmdate('Y-m-d');
        }
    }

    class DateTime extends Date
    {
        public function __construct(string $time = 'now')
        {
            $this->text = gmdate('Y-m-d H:i:s', (int) strtotime($time));
        }

        public function getTimestamp()
        {
            return strtotime($this->text . ' UTC');
        }
    }
}

namespace Bitrix\Main\Localization {
    class Loc
    {
        public static $language = 'ru';
        private static $messages = [];

        public static function loadMessages($file)
        {
            $path = dirname($file) . '/lang/' . self::language() . '/' . basename($file);
            if (is_file($path)) {
                $MESS = [];
                include $path;
                self::$messages = $MESS + self::$messages;
            }
        }

        public static function getMessage($code, $replace = null, $language = null)
        {
            if (!isset(self::$messages[$code])) {
                throw new \LogicException("there is no text $code");
            }

            return strtr(self::$messages[$code], $replace ?? []);
        }

        private static function language()
        {
            return defined('LANGUAGE_ID') ? LANGUAGE_ID : self::$language;
        }
    }
}

namespace {
    class CUser
    {
        public function GetID()
        {
            return 1;
        }

        public function IsAuthorized()
        {
            return true;
        }
    }

    class CMain
    {
        /** The right that the test gives by a cookie; everything without one. */
        public function GetGroupRight($module_id, $arGroups = false, $use_default_level = 'Y', $max_right_from_super_admin = 'Y', $site_id = false)
        {
            return $_COOKIE['RIGHT'] ?? 'W';
        }

        public function GetCurPage($get_index_page = null)
        {
            return strtok($_SERVER['REQUEST_URI'] ?? '', '?');
        }
    }

    class CEventLog
    {
        public static function Add($arFields)
        {
            BitrixDouble::add('event_log.json', $arFields);
        }
    }

    class CAdminNotify
    {
        public static function Add($arFields)
        {
            $told = BitrixDouble::read('admin_notify.json');
            $told[$arFields['TAG']] = $arFields;
            BitrixDouble::write('admin_notify.json', $told);
        }
    }

    class CAgent
    {
        public static function AddAgent($name, $module = '', $period = 'N', $interval = 86400, $datecheck = '', $active = 'Y', $next_exec = '', $sort = 100, $user_id = false, $existError = true)
        {
            $agents = BitrixDouble::read('agents.json');
            if (isset($agents[$name])) {
                return false;
            }
            $agents[$name] = $interval;
            BitrixDouble::write('agents.json', $agents);

            return count($agents);
        }
    }

    function htmlspecialcharsbx($string, $flags = ENT_COMPAT, $doubleEncode = true)
    {
        return htmlspecialchars((string) $string, $flags, 'UTF-8', $doubleEncode);
    }

    function bitrix_sessid()
    {
        return md5($_COOKIE['PHPSESSID'] ?? 'a visitor of the test');
    }

    function bitrix_sessid_post($varname = 'sessid', $returnInvocations = false)
    {
        return '<input type="hidden" name="' . $varname . '" id="' . $varname . '" value="' . bitrix_sessid() . '" />';
    }

    function check_bitrix_sessid($varname = 'sessid')
    {
        return ($_REQUEST[$varname] ?? '') === bitrix_sessid();
    }

    function SaleFormatCurrency($fSum, $strCurrency, $OnlyValue = false, $withoutFormat = false)
    {
        return number_format((float) $fSum, fmod((float) $fSum, 1) > 0 ? 2 : 0, ',', '&nbsp;') . '&nbsp;₸';
    }
}
