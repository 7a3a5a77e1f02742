<?php

$MESS['SALE_HPS_CVETYKASPI_GROUP_SELLER'] = 'Kaspi: ақша кімдікі';
$MESS['SALE_HPS_CVETYKASPI_GROUP_PAYING'] = 'Kaspi: сатып алушы қалай төлейді';
$MESS['SALE_HPS_CVETYKASPI_DESCRIPTION'] = 'Тапсырыс қай сатушыныкі болса, Kaspi арқылы төлем соның шотына түседі. Сервистің мекенжайы, кілті және бумасы console.php командасымен беріледі, docs/bitrix.md қараңыз.';
$MESS['SALE_HPS_CVETYKASPI_SELLER'] = 'Ереже: төлем кімдікі';
$MESS['SALE_HPS_CVETYKASPI_SELLER_DESC'] = 'Ережесіз төлем жоқ. Әдепкі дүкен жоқ.';
$MESS['SALE_HPS_CVETYKASPI_SELLER_SHOP'] = 'Әрқашан бір дүкен';
$MESS['SALE_HPS_CVETYKASPI_SELLER_PROPERTY'] = 'Дүкен тапсырыс қасиетінде';
$MESS['SALE_HPS_CVETYKASPI_SELLER_XML_ID'] = 'Дүкен төлемнің XML_ID өрісінде (shop-121038)';
$MESS['SALE_HPS_CVETYKASPI_SHOP'] = 'Дүкен нөмірі';
$MESS['SALE_HPS_CVETYKASPI_SHOP_DESC'] = '«Әрқашан бір дүкен» ережесі үшін: 121038. Мұндай төлем жүйесі бірнешеу болса, осы жүйенің ID нөмірі, қос нүкте және дүкен: 3:121038.';
$MESS['SALE_HPS_CVETYKASPI_PROPERTY'] = 'Тапсырыс қасиетінің коды';
$MESS['SALE_HPS_CVETYKASPI_PROPERTY_DESC'] = '«Дүкен тапсырыс қасиетінде» ережесі үшін: онда дүкен нөмірі.';
$MESS['SALE_HPS_CVETYKASPI_GOODS'] = 'Себеттегі тауардың дүкен нөмірі бар қасиетінің коды';
$MESS['SALE_HPS_CVETYKASPI_GOODS_DESC'] = 'Ол арқылы тапсырыста бір сатушының тауары екені тексеріледі. Дефис (-): тауарларда сатушы көрсетілмейді, екі сатушының тауары бар тапсырыс болмайды.';
$MESS['SALE_HPS_CVETYKASPI_WAY'] = 'Сатып алушы қалай төлейді';
$MESS['SALE_HPS_CVETYKASPI_WAY_DESC'] = 'Шот телефондағы Kaspi қосымшасына келеді, сілтеме телефонда ашылады немесе QR-код ретінде оқылады.';
$MESS['SALE_HPS_CVETYKASPI_WAY_BOTH'] = 'Телефонға шот немесе сілтеме';
$MESS['SALE_HPS_CVETYKASPI_WAY_PHONE'] = 'Телефонға шот';
$MESS['SALE_HPS_CVETYKASPI_WAY_LINK'] = 'Сілтеме және QR-код';
$MESS['SALE_HPS_CVETYKASPI_MESSAGE'] = 'Сатып алушы Kaspi-де көретін мәтін';
$MESS['SALE_HPS_CVETYKASPI_MESSAGE_DESC'] = '#ORDER_NUMBER#, #ORDER_ID# және #PAYMENT_NUMBER# нөмірлермен ауыстырылады.';
$MESS['SALE_HPS_CVETYKASPI_MESSAGE_DEFAULT'] = 'Тапсырыс #ORDER_NUMBER#';
$MESS['SALE_HPS_CVETYKASPI_PHONE'] = 'Сатып алушының телефоны';
$MESS['SALE_HPS_CVETYKASPI_PHONE_DESC'] = 'Төлем бетіндегі өріс осымен толтырылады; сатып алушы оны өзгерте алады.';
