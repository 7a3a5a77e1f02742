<?php

use Integration\PaymentService\BadRequest;
use Integration\PaymentService\Client;
use Integration\PaymentService\Journal;
use Integration\PaymentService\Unavailable;

final class JournalTest extends SiteTest
{
    const REPORT = ['shop_id' => self::SHOP, 'operation_type' => 'create', 'external_id' => '777', 'amount' => 10000];

    public function testReportIsSentUnderItsIdAndForgottenOnceItIsTaken(): void
    {
        $this->wire->willSay(['id' => 1]);
        $this->assertSame(['id' => 1], $this->client()->createPaymentLog(self::REPORT));
        $this->assertMatchesRegularExpression('/^[!-~]{1,64}$/D', $this->wire->requests[0]['body']['report_id']);
        $this->assertSame(0, $this->journal()->size());
    }

    /** @dataProvider outages */
    public function testReportThatDidNotArriveIsKeptAndSentLaterUnderTheSameId(callable $outage): void
    {
        $outage($this->wire);
        $this->assertNull($this->client()->createPaymentLog(self::REPORT));
        $this->assertSame(1, $this->journal()->size());
        $this->wire->willSay(['id' => 1]);
        $this->assertSame(1, $this->client()->replayJournal());
        list($first, $second) = $this->wire->requests;
        $this->assertSame($first['body'], $second['body']);
        $this->assertSame(0, $this->journal()->size());
    }

    public function outages(): array
    {
        return [
            'refused' => [static function (Wire $wire) { $wire->willFail(false, true); }],
            'lost' => [static function (Wire $wire) { $wire->willFail(true); }],
            '500' => [static function (Wire $wire) { $wire->willSay('oops', 500); }],
            'html' => [static function (Wire $wire) { $wire->willSay('<html>', 200); }],
            'draining' => [static function (Wire $wire) { $wire->willSayNo('draining', 503); }],
        ];
    }

    public function testNextReportsAreKeptAtOnceUntilThePauseIsOver(): void
    {
        $this->wire->willFail(true);
        $this->client()->createPaymentLog(self::REPORT);
        $this->client()->createPaymentLog(self::REPORT);
        $this->assertCount(1, $this->wire->requests);
        $this->now += 31;
        $this->wire->willSay(['id' => 3])->willSay(['id' => 1])->willSay(['id' => 2]);
        $this->client()->createPaymentLog(self::REPORT);
        $this->assertSame(0, $this->journal()->size());
    }

    public function testReplayStopsAtTheFirstOutageAndKeepsTheOrder(): void
    {
        $this->wire->willFail(true);
        foreach (['1', '2', '3'] as $id) {
            $this->client()->createPaymentLog(['external_id' => $id] + self::REPORT);
        }
        $this->wire->willSay(['id' => 1])->willFail(true);
        $this->assertSame(1, $this->client()->replayJournal());
        $this->assertSame(['2', '3'], array_column(array_values($this->journal()->waiting()), 'external_id'));
    }

    public function testReportThatIsRefusedIsPutAsideAndTheNextOneGoesOn(): void
    {
        $this->wire->willFail(true);
        $this->client()->createPaymentLog(['external_id' => '1'] + self::REPORT);
        $this->client()->createPaymentLog(['external_id' => '2'] + self::REPORT);
        $this->wire->willSayNo('validation_failed', 422)->willSay(['id' => 2]);
        $this->assertSame(1, $this->client()->replayJournal());
        $this->assertSame(0, $this->journal()->size());
        list($refused) = array_values($this->journal()->refused());
        $this->assertSame(['It is validation_failed.', '1'], [$refused['reason'], $refused['report']['external_id']]);
    }

    public function testWrongKeyLosesNothing(): void
    {
        $this->wire->willSayNo('authentication_required', 401);
        try {
            $this->client()->createPaymentLog(self::REPORT);
            $this->fail('it was taken');
        } catch (BadRequest $no) {
            $this->assertSame(1, $this->journal()->size());
        }
    }

    public function testOperationThatBeganIsReportedIfNobodyToldHowItEnded(): void
    {
        $this->client()->beginOperation(['error_message' => 'Outcome unknown'] + self::REPORT);
        $this->assertSame(0, $this->client()->replayJournal());
        $this->now += 61;
        $this->wire->willSay(['id' => 1]);
        $this->assertSame(1, $this->client()->replayJournal());
        $this->assertSame('Outcome unknown', $this->wire->requests[0]['body']['error_message']);
    }

    public function testOperationThatEndedIsReportedOnceUnderTheIdItBeganWith(): void
    {
        $id = $this->client()->beginOperation(['error_message' => 'Outcome unknown'] + self::REPORT);
        $this->wire->willSay(['id' => 1]);
        $this->client()->createPaymentLog(['report_id' => $id, 'status' => 'Wait'] + self::REPORT);
        $this->now += 61;
        $this->assertSame(0, $this->client()->replayJournal());
        $this->assertSame([$id, 'Wait'], [$this->wire->requests[0]['body']['report_id'], $this->wire->requests[0]['body']['status']]);
    }

    public function testStatusAloneGoesToItsOwnAddress(): void
    {
        $this->wire->willSay(['id' => 1]);
        $this->client()->updatePaymentStatus((string) self::SHOP, 777, 'Error', 'declined');
        $request = $this->wire->requests[0];
        $this->assertSame(['PATCH', 'https://service.example/api/payment/status'], [$request['method'], $request['url']]);
        unset($request['body']['report_id']);
        $this->assertEquals(['shop_id' => self::SHOP, 'external_id' => '777', 'status' => 'Error', 'error_message' => 'declined'], $request['body']);
    }

    public function testWithoutAFolderAReportThatDidNotArriveIsNotHidden(): void
    {
        $this->wire->willFail(false, true);
        $this->expectException(Unavailable::class);
        $this->client(null)->createPaymentLog(self::REPORT);
    }

    public function testJournalThatCannotBeWrittenSaysSoBeforeMoneyMoves(): void
    {
        file_put_contents($this->folder, 'a file where the folder should be');
        $this->expectException(Unavailable::class);
        $this->expectExceptionMessage('The journal cannot be written');
        $this->client()->beginOperation(self::REPORT);
    }

    private function client(?string $folder = ''): Client
    {
        return new Client('https://service.example', self::KEY, [
            'http' => $this->wire, 'clock' => $this->clock(), 'folder' => $folder === '' ? $this->folder : $folder,
        ]);
    }

    private function journal(): Journal
    {
        return new Journal($this->folder, $this->clock());
    }
}
